"""A connection parsed by httptools, which answers repeated hits and refusals by itself."""

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from app.core.http.serialization import lines
from app.core.server.protocol import CLOSE, MAX_HEAD_BYTES, Protocol
from app.core.telemetry.requests import in_flight, open_now

_CONTINUE = b"HTTP/1.1 100 "


class ResponseTransport:
    """Writes the head of a response together with a body that follows at once.

    uvicorn writes twice, which takes more time, and a process that is killed in between has sent
    half a response: nginx sends the request to no other instance then.
    """

    __slots__ = ("_head", "_protocol", "_transport", "_written")

    def __init__(
        self,
        protocol: Protocol,
        written: Callable[[bytes], None] | None,
    ) -> None:
        self._protocol = protocol
        self._transport = protocol.transport
        # Called with the head when head and body were written together.
        self._written = written
        # None before it is known, and empty after it is written.
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head:
            self._transport.writelines((self._head, data))
            if self._written is not None:
                self._written(self._head)
            self._head = b""
        elif self._head is None and not data.startswith(_CONTINUE):
            self._head = data
            # A stream may wait for its first part.
            self._protocol.loop.call_soon(self._flush)
        else:
            self._transport.write(data)

    def close(self) -> None:
        self._flush()
        self._protocol.linger()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._head and not self._transport.is_closing():
            self._transport.write(self._head)
        self._head = b""


class HttpTools(Protocol):
    """Limits heads that arrive at once, and keeps trailers out of the headers."""

    head_start = 0
    # Answers requests without the application; None if the application has no such object.
    hits: Any = None
    # Refuses requests, except those of the admin port.
    limiter: Any = None
    # Whether the request that arrives is answered, and how long to read no other one after it.
    is_answered = False
    pause_s = 0.0

    # uvicorn narrows the type of the transport, too.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        state = getattr(self.app, "state", None)
        self.hits = getattr(state, "repeated_hits", None)
        self.limiter = getattr(state, "limiter", None)
        if self.limiter is not None and self.limiter.is_admin(self.server):
            self.limiter = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.is_in_head = True

    def on_headers_complete(self) -> None:
        if self._has_refused_fields():
            # Ends the parser.
            raise ValueError
        self.is_in_head = False
        hits = self.hits
        if hits is not None and self.url in hits.known and self._is_simple():
            self.is_answered = hits.answer(self)
            if self.is_answered:
                return
        limiter = self.limiter
        if limiter is not None and len(self.tasks) >= limiter.lowest and self._is_refused():
            return
        # A hit earlier in the same data may have started the timer.
        self._unset_keepalive_if_required()
        super().on_headers_complete()
        # uvicorn would add the fields after the body (trailers) to the headers, past a proxy that
        # removes some of them. RFC 9110, section 6.5.1, forbids that.
        self.scope["headers"] = self.headers.copy()
        # A HEAD has no body: it is complete before its head would be written.
        if self.cycle is not None and self.scope["method"] != "HEAD":
            learn = hits and partial(hits.learn, self, self.url, self.headers, self.scope)
            joined = ResponseTransport(self, learn)
            self.cycle.transport = joined  # type: ignore[assignment]

    def on_body(self, body: bytes) -> None:
        self.head_start = self.received_bytes
        if not self.is_answered:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.is_answered:
            self.is_answered, self.has_answered_hit = False, True
            self.head_start = self.received_bytes
            self.on_response_complete()
            if self.pause_s and not self.transport.is_closing():
                self.flow.pause_reading()
                self.loop.call_later(self.pause_s, self._read_again)
            self.pause_s = 0
            return
        if self.headers != self.scope["headers"] and self._has_refused_fields():
            return
        self.head_start = self.received_bytes
        super().on_message_complete()

    def _read_again(self) -> None:
        if not self.transport.is_closing():
            self.flow.resume_reading()

    def _is_refused(self) -> bool:
        """Refuse a request that needs no cycle if the worker has too many."""
        limiter = self.limiter
        # The tasks of this turn of the event loop have not begun.
        now = in_flight() + len(self.tasks) - open_now["tasks"]
        if now < limiter.lowest:
            return False
        method = self.parser.get_method()
        path = unquote(self.url.partition(b"?")[0].decode("latin-1")).removeprefix(self.root_path)
        if not self._is_simple(method) or not limiter.refuses(path, now):
            return False
        self._unset_keepalive_if_required()
        own = lines(self.server_state.default_headers + limiter.own_headers(self.headers))
        body = b"" if method == b"HEAD" else limiter.response.body
        self.transport.write(b"".join([limiter.head, own, b"\r\n", body]))
        self.is_answered, self.pause_s = True, limiter.pause_s()
        return True

    def _is_simple(self, method: bytes = b"GET") -> bool:
        """Return whether a request needs no cycle: it waits for none, and ends no connection."""
        return (
            (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == method
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.expect_100_continue
            and not self.flow.write_paused
            and not self.transport.is_closing()
            and not self.access_log
            and CLOSE not in self.server_state.default_headers
        )

    def _has_refused_fields(self) -> bool:
        """Refuse fields that are too large, even if they have arrived at once."""
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self.refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        return size > MAX_HEAD_BYTES
