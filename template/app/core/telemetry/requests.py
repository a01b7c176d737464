"""Telemetry: one ASGI layer gives each request its id, and measures and reports it.

Reports go to the observers, to the log of slow requests, to the access log and, if asked
for, to the client in `Server-Timing`.
"""

import asyncio
from collections.abc import Callable, Sequence
from logging import getLogger
from time import perf_counter
from typing import Any, NamedTuple, Protocol
from zlib import crc32

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.streams import is_event_stream
from app.core.settings.telemetry import TelemetrySettings
from app.core.telemetry import request_id
from app.core.telemetry.activity import Activity, current

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
# nginx's status for a client that left before the response was complete.
CLIENT_LEFT = 499
# The most lines about slow requests that one worker writes in a second.
MAX_SLOW_LINES = 10
_STARTS = frozenset(("http.response.start", "websocket.http.response.start", "websocket.accept"))
_ENDS = frozenset(("http.response.body", "websocket.http.response.body", "websocket.close"))

access_log = getLogger("app.access")
slow_log = getLogger("app.slow")


class Finished(NamedTuple):
    """A request whose response has ended.

    Attributes:
        method: one of `METHODS`, or `_OTHER`.
        route: the template of the route, or `unmatched`.
        status: `CLIENT_LEFT` if the client did not wait; 500 if the response is incomplete; that of
            the server if it answered in place of the application; 101 of a WebSocket.
        duration_s: until the last byte of the response, or the first one of an event stream or a
            WebSocket, which is reported when it begins: its client chooses when it ends.
        pool_wait_s: the time that tasks of the request waited for connections.
        cache: how the response cache answered: hit, stale, miss, collapsed, error or bypass; empty
            for other routes.
    """

    method: str
    route: str
    status: int
    duration_s: float
    queries: int
    pool_wait_s: float
    cache: str


class Observer(Protocol):
    """Gets each request, in the event loop, when it starts and when its response has ended.

    An event stream or a WebSocket that begins is `streamed` by 1, and by -1 when it ends.
    """

    def started(self) -> None: ...

    def finished(self, request: Finished) -> None: ...

    def streamed(self, change: int) -> None: ...


class Telemetry:
    """ASGI middleware outside of all others but the one for the admin port."""

    def __init__(
        self, app: ASGIApp, *, settings: TelemetrySettings, observers: Sequence[Observer] = ()
    ) -> None:
        self.app = app
        self.observers = observers
        self.server_timing = settings.server_timing
        self._slow_s = settings.slow_request_ms / 1000 or float("inf")
        # The access log has a request if the checksum of its id is below this.
        self._sampled = settings.access_log_sample * 2**32
        # The second of the last slow requests, and how many it had.
        self._second = self._slow = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        measured = _Measured(self, scope, send)
        # After an error the context keeps the request, for the log of the server.
        token = current.set(measured)
        for observer in self.observers:
            observer.started()
        # uvicorn's request and response.
        cycle: Any = getattr(send, "__self__", None)
        if cycle is not None and scope.get("method") in ("GET", "HEAD"):
            cycle.task = asyncio.current_task()
        try:
            await self.app(scope, receive, measured.send)
        except asyncio.CancelledError:
            # A read whose client left, which `Protocol` cancels, is no error.
            if not getattr(cycle, "disconnected", False):
                raise
        finally:
            if measured.telemetry is not None:
                measured.finish(500)
            elif measured.is_stream:
                for observer in self.observers:
                    observer.streamed(-1)
        current.reset(token)

    def report(self, request: Finished, identifier: str, waited_s: float) -> None:
        """Tell the observers, and log the request if it was slow, and if it is in the sample."""
        for observer in self.observers:
            observer.finished(request)
        if waited_s >= self._slow_s:
            self._report_slow(request)
        if self._sampled and crc32(identifier.encode()) < self._sampled:
            _log(access_log.info, request)

    def _report_slow(self, request: Finished) -> None:
        """Log a slow request; if all are slow, the lines of a second have a bound."""
        second, left_out = int(perf_counter()), self._slow - MAX_SLOW_LINES
        if second != self._second:
            self._second, self._slow = second, 0
            if left_out > 0:
                slow_log.warning("%d more slow requests were not logged", left_out)
        self._slow += 1
        if self._slow <= MAX_SLOW_LINES:
            _log(slow_log.warning, request)


class _Measured(Activity):
    __slots__ = ("_send", "_started_s", "_status", "_waited_s", "is_stream", "telemetry")

    def __init__(self, telemetry: Telemetry, scope: Scope, send: Send) -> None:
        super().__init__(request_id.of(scope["headers"]), scope)
        # uvicorn starts a pipelined request in the task of the one before: a chain would grow.
        if isinstance(self.outer, _Measured):
            self.outer = self.outer.outer
        # None when the request has been reported.
        self.telemetry: Telemetry | None = telemetry
        self.is_stream = False
        self._send = send
        # Of the response, and how long the client waited for it.
        self._status = 0
        self._waited_s = 0.0
        self._started_s = perf_counter()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in _STARTS:
            self._waited_s = perf_counter() - self._started_s
            self._status = message.get("status", 101)
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            self.is_stream = self._status == 101 or is_event_stream(headers)
            if self.telemetry is not None and self.telemetry.server_timing:
                headers += self._timing()
            message = {**message, "headers": headers}
        await self._send(message)
        if self.is_stream:
            if kind in _STARTS and self.telemetry is not None:
                for observer in self.telemetry.observers:
                    observer.streamed(1)
                self.finish(self._status)
        elif kind in _ENDS and not message.get("more_body"):
            # The server refuses a WebSocket that is closed before it is open.
            self.finish(self._status or 403)

    def _timing(self) -> list[tuple[bytes, bytes]]:
        timing = (
            f'db;desc="{self.queries} queries", pool;dur={self.pool_wait_s * 1000:.1f}, '
            f'cache;desc="{self.cache or "none"}", total;dur={self._waited_s * 1000:.1f}'
        )
        process_time = b"%.6f" % self._waited_s
        return [(b"server-timing", timing.encode()), (b"x-process-time", process_time)]

    def finish(self, status: int) -> None:
        """Report the request, once."""
        telemetry, self.telemetry = self.telemetry, None
        if telemetry is None or self.scope is None:
            return
        duration_s = perf_counter() - self._started_s
        # uvicorn drops the rest of a response silently. An error of the service stays one.
        cycle = getattr(self._send, "__self__", None)
        if self._status < 500 and getattr(cycle, "disconnected", False):
            status = getattr(cycle, "refused", CLIENT_LEFT)
        method = self.scope.get("method", "GET")
        if method not in METHODS:
            method = "_OTHER"
        request = Finished(
            method, self.route, status, duration_s, self.queries, self.pool_wait_s, self.cache
        )
        telemetry.report(request, self.request_id, self._waited_s or duration_s)


def _log(write: Callable[..., None], request: Finished) -> None:
    """Write a line about the request; the formatter adds its id, method, route and path."""
    duration_ms = request.duration_s * 1000
    extra = {
        "status": request.status,
        "duration_ms": round(duration_ms, 1),
        "queries": request.queries,
        "pool_wait_ms": round(request.pool_wait_s * 1000, 1),
        "cache": request.cache,
    }
    what = (request.method, request.route, request.status, duration_ms)
    write("%s %s %d in %.0f ms", *what, extra=extra)
