"""HTTP/1.1 and WebSockets with limits on the size of a head and on the time of a transfer.

uvicorn has neither. httptools parses the requests; where it is not installed, h11 does.
"""

from contextlib import suppress
from fcntl import ioctl
from http import HTTPStatus
from math import inf
from termios import FIONREAD, TIOCOUTQ
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from app.core.http.problems import problem_response
from app.core.http.serialization import lines
from app.core.telemetry import request_id
from app.core.telemetry.requests import Header

if TYPE_CHECKING:
    from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol as _Base
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as _Base

PARSER = "httptools" if _Base.__name__ == "HttpToolsProtocol" else "h11"
# The most bytes of request line, headers and trailers together; nginx passes as many by default.
# h11 accepts twice as many if they arrive at once.
MAX_HEAD_BYTES = 32 * 1024
# As in Apache's mod_reqtimeout, a body that arrives at this rate is never too late.
MIN_BODY_BYTES_PER_S = 1024
# Until so long after its time limit, a request may answer by itself.
LATE_S = 0.25
# Time in which the event loop reads what has arrived.
READ_S = 0.01
# Longest time to read the rest of a request that was answered before its end.
LINGER_S = 5
# The header of a service that stops.
CLOSE = (b"connection", b"close")


def unread(transport: Any) -> tuple[int, bytes] | None:
    """Return a measure of the bytes that the client has not read, or None; reads change it.

    On Linux, it includes the bytes that are not acknowledged: the buffer of the kernel has
    megabytes, and accepts more only when a third of it is free.
    """
    waiting, in_kernel = transport.get_write_buffer_size(), b""
    if not waiting:
        return None
    with suppress(OSError, TypeError):
        in_kernel = ioctl(transport.get_extra_info("socket"), TIOCOUTQ, bytes(4))
    return waiting, in_kernel


class Protocol(_Base):
    """A connection of a client."""

    received_bytes = 0
    # Whether the last answer is sent, and what the client still sends is dropped.
    is_lingering = False
    # Whether a repeated hit was answered, which has no cycle.
    has_answered_hit = False
    # The `received_bytes` at the last part of a body or end of a request. h11 has a limit itself.
    head_start: float = inf
    is_in_head = False
    # The phase that `close_if_slow` saw last, since when, and the `received_bytes` of that time.
    _seen: tuple[Any, ...] = ()
    _since = 0.0
    _received_before = 0

    def data_received(self, data: bytes) -> None:
        if self.is_lingering:
            return
        # In parts, because h11 limits a head only while it is incomplete.
        for start in range(0, len(data), MAX_HEAD_BYTES):
            part = data[start : start + MAX_HEAD_BYTES]
            self.received_bytes += len(part)
            super().data_received(part)
            is_too_large = self.received_bytes - self.head_start > MAX_HEAD_BYTES
            if is_too_large and not self.transport.is_closing():
                self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            if self.transport.is_closing():
                return

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        # The task of a GET or HEAD, set by telemetry: no client waits for its response any more.
        task = getattr(self.cycle, "task", None)
        if task is not None and self.is_waiting:
            task.cancel()

    def shutdown(self) -> None:
        """Close the connection after a request that runs or has arrived; the worker stops.

        A busy event loop has not read all that has arrived, and a close would reset the connection.
        """
        if self._has_unread_request():
            self.loop.call_later(READ_S, self.shutdown)
        elif not self.is_lingering:
            super().shutdown()

    def linger(self) -> None:
        """Close the connection after the last answer, and after the rest of its request.

        If bytes of the client are unread, a close resets the connection: the client may lose the
        answer, and nginx then answers 502.
        """
        if self.transport.is_closing() or self.is_lingering:
            return
        if not (self.cycle.more_body or self._has_unread()):
            self.transport.close()
            return
        self.is_lingering = True
        self.flow.resume_reading()
        # TLS has no end of one direction.
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(LINGER_S, self.transport.close)

    def on_response_complete(self) -> None:
        if self.is_lingering:
            self.server_state.total_requests += 1
        else:
            super().on_response_complete()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that has been idle for too long, for which uvicorn calls this."""
        if not self._has_unread_request():
            super().timeout_keep_alive_handler()

    def _has_unread_request(self) -> bool:
        """Return whether bytes wait in the kernel while no request runs."""
        if self.transport.is_closing() or self.is_lingering:
            return False
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and self._has_unread()

    def _has_unread(self) -> bool:
        """Return whether bytes of the client wait in the kernel."""
        waiting = bytes(4)
        with suppress(OSError, TypeError):
            waiting = ioctl(self.transport.get_extra_info("socket"), FIONREAD, waiting)
        return any(waiting)

    def send_400_response(self, msg: str) -> None:
        """Answer malformed HTTP, for which uvicorn calls this."""
        if not self.transport.is_closing():
            self.refuse(HTTPStatus.BAD_REQUEST, msg)

    def refuse(self, status: HTTPStatus, detail: str | None = None, **headers: str) -> None:
        """Answer in place of the application, and close the connection."""
        headers["Connection"] = "close"
        own = []
        # Otherwise, the cycle is that of an earlier request.
        if self.cycle is not None and not self.cycle.response_complete:
            # Telemetry reads it; uvicorn's type does not have it.
            self.cycle.refused = status  # type: ignore[attr-defined]
            own = self._own_headers(self.cycle)
        response = problem_response(status, detail, headers=headers)
        first = b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode())
        fields = lines(response.raw_headers + own)
        self.transport.write(b"".join([first, fields, b"\r\n", bytes(response.body)]))
        self.transport.close()

    def _own_headers(self, cycle: Any) -> list[Header]:
        """Return the headers of a request whose head was read: its id if it is known, and CORS."""
        cors = getattr(getattr(self.app, "state", None), "cors", None)
        own = [] if cors is None else [*cors.headers(cycle.scope["headers"])]
        if activity := getattr(cycle, "activity", None):
            own.append((request_id.HEADER, activity.request_id.encode()))
        return own

    @property
    def is_waiting(self) -> bool:
        """Whether the application has a request that it has not begun to answer."""
        return self.cycle is not None and not self.cycle.response_started

    def close_if_slow(self, now_s: float, *, head_s: float, body_s: float) -> None:
        """Close the connection if its client sends or reads too slowly, or a read takes too long.

        A read that waits for something that knows no time limit ends here: the client gets 504.
        Calls at intervals need no timer for each request; a time-out is late by one or two of them.
        """
        activity = getattr(self.cycle, "activity", None)
        if activity and self.is_waiting and activity.remaining_s() < -LATE_S:
            if not self.transport.is_closing():
                detail = f"There was no response within {activity.limit_s():g} s."
                self.refuse(HTTPStatus.GATEWAY_TIMEOUT, detail)
            return
        phase = self._phase()
        if phase != self._seen:
            self._seen, self._since, self._received_before = phase, now_s, self.received_bytes
        received = self.received_bytes - self._received_before
        allowed_s = {
            "idle": inf,
            "head": head_s,
            "body": body_s + received / MIN_BODY_BYTES_PER_S,
            "response": body_s,
        }
        if now_s - self._since <= allowed_s[phase[0]]:
            return
        if phase[0] == "response":
            # Nothing else ends a connection with bytes that its client does not read.
            self.transport.abort()
        elif self.is_waiting:
            self.refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self.transport.close()

    def _phase(self) -> tuple[str, Any]:
        """Return the step that the service expects of the client, and a sign of its progress."""
        if waiting := unread(self.transport):
            return "response", waiting
        if self.cycle is None or self.cycle.response_complete:
            # uvicorn has a timer for a connection that is idle between two requests.
            is_idle = self.timeout_keep_alive_task and not self.is_in_head
            return ("idle" if is_idle else "head"), (self.cycle, self.head_start)
        # If reading is paused, the application is the slow one.
        is_sending = self.cycle.more_body and not self.cycle.waiting_for_100_continue
        return ("body" if is_sending and not self.flow.read_paused else "idle"), self.cycle


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """A connection that has become a WebSocket. uvicorn closes those that answer no ping."""

    _unread: tuple[int, bytes] | None = None
    _since_s = 0.0

    async def send(self, message: Any) -> None:
        await super().send(message)
        # Otherwise, uvicorn logs an error after a refusal by a response.
        self.handshake_complete = self.handshake_complete or self.close_sent

    def abort_if_unread(self, now_s: float, timeout_s: float) -> None:
        """End the connection when its client has read nothing for so long: a close would wait."""
        waiting = unread(self.transport)
        if waiting != self._unread or waiting is None:
            self._unread, self._since_s = waiting, now_s
        elif now_s - self._since_s > timeout_s:
            self.transport.abort()
