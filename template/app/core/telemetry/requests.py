"""Telemetry: one ASGI layer gives each request its id, and measures and reports it.

Reports go to `observe`, to the log of slow requests, to the access log and, if asked for, to the
client in `Server-Timing`.
"""

import asyncio
from collections.abc import Awaitable, Callable
from logging import getLogger
from math import inf
from time import perf_counter
from typing import Any, TypeVar
from zlib import crc32

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.deadlines import DECLARED, sent_s
from app.core.http.streams import is_event_stream
from app.core.settings.telemetry import TelemetrySettings
from app.core.telemetry import request_id
from app.core.telemetry.activity import Activity, current

T = TypeVar("T")
Header = tuple[bytes, bytes]
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
# nginx's status for a client that left before the response was complete.
CLIENT_LEFT = 499
_STARTS = frozenset(("http.response.start", "websocket.http.response.start", "websocket.accept"))
_ENDS = frozenset(("http.response.body", "websocket.http.response.body", "websocket.close"))

# The most lines about slow requests that one worker writes in a second.
MAX_SLOW_LINES = 10

access_log = getLogger("app.access")
slow_log = getLogger("app.slow")

# The `requests` of this process that are not reported yet, those of them that wait for their
# `clients`, the open `streams`, and the `tasks` of requests, which may run on after the response.
open_now = {"requests": 0, "clients": 0, "streams": 0, "tasks": 0}


def in_flight() -> int:
    """Return the requests of this process that wait for it, and not for their clients."""
    return open_now["requests"] - open_now["clients"]


async def of_client(wait: Awaitable[T]) -> T:
    """Wait for the client of a request, for whose slowness no other client is refused."""
    open_now["clients"] += 1
    try:
        return await wait
    finally:
        open_now["clients"] -= 1


class Telemetry:
    """ASGI middleware outside of all others but the one for the admin port.

    `observe` is called in the event loop with each request when its response has ended.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: TelemetrySettings,
        timeout_s: float = inf,
        observe: Callable[["MeasuredRequest"], None] | None = None,
    ) -> None:
        self.app = app
        self.observe = observe
        self.timeout_s = timeout_s
        self.server_timing = settings.server_timing
        self._slow_s = settings.slow_request_ms / 1000 or float("inf")
        # The second of the last slow requests, and how many it had.
        self._second = self._slow = 0
        # The access log has a request if the checksum of its id is below this.
        self._sampled = settings.access_log_sample * 2**32

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request = MeasuredRequest(self, scope, send)
        # After an error the context keeps the request, for the log of the server.
        token = current.set(request)
        open_now["requests"] += 1
        open_now["tasks"] += 1
        cycle = request.cycle
        # A WebSocket has no method.
        is_read = cycle is not None and scope.get("method") in ("GET", "HEAD")
        if is_read:
            cycle.task, cycle.activity = asyncio.current_task(), request
        try:
            await self.app(scope, receive, request.send)
        except asyncio.CancelledError:
            # A read whose client left, which `Protocol` cancels, is no error.
            if not getattr(cycle, "disconnected", False):
                raise
        finally:
            open_now["tasks"] -= 1
            request.finish(500)
            if is_read:
                # Otherwise, both refer to each other.
                cycle.activity = None
            if request.is_stream:
                open_now["streams"] -= 1
        current.reset(token)

    def report(self, request: "MeasuredRequest") -> None:
        """Observe the request, and log it if it was slow, and if it is in the sample."""
        if self.observe is not None:
            self.observe(request)
        if request.waited_s >= self._slow_s:
            self._report_slow(request)
        if self._sampled and crc32(request.request_id.encode()) < self._sampled:
            request.log(access_log.info)

    def _report_slow(self, request: "MeasuredRequest") -> None:
        """Log a slow request; if all are slow, the lines of a second have a bound."""
        second, left_out = int(perf_counter()), self._slow - MAX_SLOW_LINES
        if second != self._second:
            self._second, self._slow = second, 0
            if left_out > 0:
                slow_log.warning("%d more slow requests were not logged", left_out)
        self._slow += 1
        if self._slow <= MAX_SLOW_LINES:
            request.log(slow_log.warning)


class MeasuredRequest(Activity):
    """A request, and what its report says.

    Attributes:
        cycle: uvicorn's object for the request and its response; None under another server.
        method: one of `METHODS`, or `_OTHER`.
        status: of the response, 101 of a WebSocket; `CLIENT_LEFT` if the client did not wait; 500
            if the response is incomplete; that of the server if it answered in place of the
            application.
        waited_s: until the response began.
        duration_s: until the last byte of the response, or the first one of an event stream or a
            WebSocket, which is reported when it begins: its client chooses when it ends.
    """

    status = 0
    waited_s = duration_s = 0.0
    is_stream = _is_reported = False

    def __init__(self, telemetry: Telemetry, scope: Scope, send: Any) -> None:
        super().__init__(request_id.of(scope["headers"]), scope)
        # uvicorn starts a pipelined request in the task of the one before: a chain would grow.
        if isinstance(self.outer, MeasuredRequest):
            self.outer = self.outer.outer
        self.cycle: Any = getattr(send, "__self__", None)
        method = scope.get("method", "GET")
        self.method = method if method in METHODS else "_OTHER"
        self._telemetry = telemetry
        self._send = send
        self._started_s = self.began_s = perf_counter()

    def limit_s(self, *, of_client: bool = True) -> float:
        """Return the time limit of the route, and no limit once the response has begun."""
        if self.status or self.scope is None:
            return inf
        endpoint = getattr(self.scope.get("route"), "endpoint", None)
        limit_s: float = getattr(endpoint, DECLARED, self._telemetry.timeout_s)
        return min(limit_s, sent_s(self.scope["headers"])) if of_client else limit_s

    def remaining_s(self) -> float:
        """Return the time until the limit, and infinity once the response has begun."""
        if self.status or self.scope is None:
            return inf
        ends_s = self.ends_s
        if ends_s is None:
            ends_s = self.began_s + self.limit_s()
            # Before the router, middleware may ask.
            if "route" in self.scope:
                self.ends_s = ends_s
        return ends_s - perf_counter()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind not in _STARTS:
            if message.get("more_body") and not self._is_reported:
                await of_client(self._send(message))
            else:
                await self._send(message)
            if kind in _ENDS and not message.get("more_body"):
                # The server refuses a WebSocket that is closed before it is open.
                self.finish(self.status or 403)
            return
        message = self._begin(message)
        await self._send(message)
        # Now, because the server may refuse a start.
        if not self.is_stream and (self.status == 101 or is_event_stream(message["headers"])):
            self.is_stream = True
            open_now["streams"] += 1
            self.finish(self.status)

    def _begin(self, message: Message) -> Message:
        """Return the start of the response with the headers of telemetry."""
        self.waited_s = perf_counter() - self._started_s
        self.status = message.get("status", 101)
        headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        if self._telemetry.server_timing:
            timing = (
                f'db;desc="{self.queries} queries", pool;dur={self.pool_wait_s * 1000:.1f}, '
                f'cache;desc="{self.cache or "none"}", total;dur={self.waited_s * 1000:.1f}'
            )
            headers.append((b"server-timing", timing.encode()))
            headers.append((b"x-process-time", b"%.6f" % self.waited_s))
        return {**message, "headers": headers}

    def again(self) -> Callable[[Scope, int, str], tuple["MeasuredRequest", list[Header]]]:
        """Return a function that begins an equal request, which ends with `finish`.

        Its arguments are the scope, the status and the result of the cache; it returns the headers
        of telemetry as well.
        """
        telemetry = self._telemetry

        def begin(scope: Scope, status: int, cache: str) -> tuple[MeasuredRequest, list[Header]]:
            open_now["requests"] += 1
            request = MeasuredRequest(telemetry, scope, None)
            request.cache = cache
            return request, request._begin({"type": "", "status": status})["headers"]

        return begin

    def finish(self, status: int) -> None:
        """Report the request, once."""
        if self._is_reported:
            return
        self._is_reported = True
        open_now["requests"] -= 1
        self.duration_s = perf_counter() - self._started_s
        self.waited_s = self.waited_s or self.duration_s
        # uvicorn drops the rest of a response silently. An error of the service stays one.
        if self.status < 500 and getattr(self.cycle, "disconnected", False):
            status = getattr(self.cycle, "refused", CLIENT_LEFT)
        self.status = status
        self._telemetry.report(self)

    def log(self, write: Callable[..., None]) -> None:
        """Write a line; the formatter adds the id, the method, the route and the path."""
        duration_ms = self.duration_s * 1000
        extra = {
            "status": int(self.status),
            "duration_ms": round(duration_ms, 1),
            "queries": self.queries,
            "pool_wait_ms": round(self.pool_wait_s * 1000, 1),
            "cache": self.cache,
        }
        what = (self.method, self.route, self.status, duration_ms)
        write("%s %s %d in %.0f ms", *what, extra=extra)
