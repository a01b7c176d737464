"""A metric of each request: the number of statements that it sent to the database.

The instrument is OpenTelemetry's, and costs almost nothing until a provider of metrics is set.
"""

from opentelemetry.metrics import Meter, get_meter
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database.queries import Queries


class QueryCount:
    """Counts the statements of a request, for a metric and, if asked, for `Server-Timing`."""

    def __init__(self, app: ASGIApp, *, server_timing: bool, meter: Meter | None = None) -> None:
        self.app = app
        self.server_timing = server_timing
        self.queries = (meter or get_meter("app")).create_histogram(
            "db.client.queries_per_request",
            unit="{query}",
            description="Statements that one request sent to the database.",
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        with Queries() as queries:
            try:
                await self.app(
                    scope, receive, _with_header(send, queries) if self.server_timing else send
                )
            finally:
                context = scope.get("fastapi", {}).get("effective_route_context")
                # The template of the route: a path would make one time series for each row.
                path = getattr(context or scope.get("route"), "path", "unmatched")
                attributes = {"http.request.method": scope["method"], "http.route": path}
                self.queries.record(len(queries.statements), attributes)


def _with_header(send: Send, queries: Queries) -> Send:
    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            value = f'db;desc="{len(queries.statements)} queries"'
            MutableHeaders(scope=message).append("Server-Timing", value)
        await send(message)

    return send_with_header
