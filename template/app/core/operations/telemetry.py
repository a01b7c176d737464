"""Telemetry of requests: id, timing, slow-request log, sampled access log, and observers."""

from collections.abc import Sequence
from logging import getLogger
from time import perf_counter
from typing import NamedTuple, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.operations import request_id
from app.core.operations.activity import Activity, current

METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
)
# The client left before it had the whole response: nginx's status.
CLIENT_CLOSED = 499

logger = getLogger(__name__)


class Finished(NamedTuple):
    """A request whose response has ended.

    Attributes:
        method: one of `METHODS` or `_OTHER`.
        route: the template of the route or `unmatched`, so labels have a bound.
        status: `CLIENT_CLOSED` when the client left, 500 when the application failed.
        duration_s: until the last byte of the response.
        queries: statements that were sent to the database.
        pool_wait_s: time that tasks of the request waited for connections.
        cache: result of the response cache: hit, stale, miss, collapsed, error or bypass; empty
            for a route that is not cached.
    """

    request_id: str
    method: str
    route: str
    status: int
    duration_s: float
    queries: int
    pool_wait_s: float
    cache: str


class Observer(Protocol):
    """Gets each request when it starts and when its response has ended, in the event loop."""

    def started(self) -> None: ...

    def finished(self, request: Finished) -> None: ...


class Telemetry:
    """ASGI middleware outside of all others: measures each request and tells the observers."""

    def __init__(
        self, app: ASGIApp, *, server_timing: bool = False, observers: Sequence[Observer] = ()
    ) -> None:
        self.app = app
        self.server_timing = server_timing
        self.observers = observers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = _Request(self, scope, send)
        for observer in self.observers:
            observer.started()
        token = current.set(request)
        try:
            await self.app(scope, receive, request.send)
        except Exception:
            # The context keeps the request, for the log of the server.
            request.finish(500)
            raise
        finally:
            request.finish()
        current.reset(token)


class _Request(Activity):
    __slots__ = ("_send", "_started_s", "_status", "_telemetry")

    def __init__(self, telemetry: Telemetry, scope: Scope, send: Send) -> None:
        super().__init__(request_id.of(scope["headers"]), scope)
        self._telemetry: Telemetry | None = telemetry
        self._send = send
        self._status = CLIENT_CLOSED
        self._started_s = perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            own = [(request_id.HEADER, self.request_id.encode())]
            if self._telemetry is not None and self._telemetry.server_timing:
                own += self._timing()
            message = {**message, "headers": [*message.get("headers", ()), *own]}
            await self._send(message)
            return
        await self._send(message)
        if not message.get("more_body"):
            self.finish()

    def _timing(self) -> list[tuple[bytes, bytes]]:
        elapsed_s = perf_counter() - self._started_s
        timing = (
            f'total;dur={elapsed_s * 1000:.1f}, db;desc="{self.queries} queries", '
            f"pool;dur={self.pool_wait_s * 1000:.1f}, cache;desc={self.cache or 'none'}"
        )
        return [(b"server-timing", timing.encode()), (b"x-process-time", b"%.6f" % elapsed_s)]

    def finish(self, status: int | None = None) -> None:
        """Tell the observers, once."""
        telemetry, self._telemetry = self._telemetry, None
        if telemetry is None:
            return
        duration_s = perf_counter() - self._started_s
        assert self.scope is not None
        method = self.scope["method"]
        # uvicorn's connection; it drops the rest of the response silently.
        if getattr(getattr(self._send, "__self__", None), "disconnected", False):
            status = CLIENT_CLOSED
        finished = Finished(
            self.request_id,
            method if method in METHODS else "_OTHER",
            route_of(self.scope),
            self._status if status is None else status,
            duration_s,
            self.queries,
            self.pool_wait_s,
            self.cache,
        )
        for observer in telemetry.observers:
            observer.finished(finished)


def route_of(scope: Scope) -> str:
    """Return the template of the route: a path would make one time series for each row."""
    route = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return getattr(route, "path", "unmatched")
