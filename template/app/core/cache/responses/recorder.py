"""Runs the application once for a response that the cache may store, and records the response.

A response that is for one client only, or a stream, goes to the client of the run instead.
"""

import asyncio
from collections.abc import Callable
from logging import getLogger
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache.headers import Headers
from app.core.cache.store import NotShareable

logger = getLogger(__name__)


class Recorded(NamedTuple):
    """A whole response, with the headers of the endpoint."""

    status: int
    headers: Headers
    body: bytes


class Recorder:
    """One run of the application.

    Args:
        scope: makes the request, reduced to the parts that are in the key.
        receive: of the client.
        send: to the client; completes the headers of a response that is forwarded.
        is_shareable: whether a response with this status and these headers may be recorded.
        max_bytes: a larger body is not recorded.
    """

    def __init__(
        self,
        app: ASGIApp,
        scope: Callable[[], Scope],
        receive: Receive,
        send: Send,
        *,
        is_shareable: Callable[[int, Headers], bool],
        max_bytes: int,
    ) -> None:
        self._app = app
        self._scope = scope
        self._from_client = receive
        self._to_client = send
        self._has_client = True
        self._is_shareable = is_shareable
        self._max_bytes = max_bytes
        self._has_sent_request = False
        self._start: Message | None = None
        # Set when the response goes to the client, unrecorded.
        self._is_forwarded = asyncio.Event()
        self._recorded: asyncio.Future[Recorded] = asyncio.get_running_loop().create_future()
        self._run: asyncio.Task[None] | None = None

    async def record(self) -> Recorded:
        """Return the complete response; NotShareable when its client gets it, or has left."""
        self._run = asyncio.create_task(self._call())
        self._run.add_done_callback(self._on_end)
        try:
            return await self._recorded
        except asyncio.CancelledError:
            self._run.cancel()
            raise

    async def finish(self) -> None:
        """Wait until the client has its whole response; raise the application's error here."""
        if self._run is not None:
            await self._run

    def leave(self) -> None:
        """Drop the client, unless this run is sending to it."""
        if not self._is_forwarded.is_set():
            self._has_client = False

    async def _call(self) -> None:
        await self._app(self._scope(), self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._has_sent_request:
            self._has_sent_request = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # Report a disconnect only when the response goes to this client.
        await self._is_forwarded.wait()
        while (message := await self._from_client())["type"] != "http.disconnect":
            pass
        return message

    async def _send(self, message: Message) -> None:
        """Record the message, or forward it to the client."""
        if self._is_forwarded.is_set():
            await self._to_client(message)
        elif message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            self._start = {**message, "headers": headers}
        elif self._start is not None and not self._recorded.done():
            status, headers = self._start["status"], self._start["headers"]
            body = message.get("body", b"")
            if (
                message["type"] == "http.response.body"
                and not message.get("more_body")
                and len(body) <= self._max_bytes
                and self._is_shareable(status, headers)
            ):
                self._recorded.set_result(Recorded(status, headers, body))
            else:
                await self._forward(self._start, message)

    async def _forward(self, start: Message, message: Message) -> None:
        """Send the response to the client from now on, in this task."""
        assert self._run is not None
        self._recorded.set_exception(NotShareable())
        if not self._has_client:
            # A stream may have no end.
            self._run.cancel()
            return
        self._is_forwarded.set()
        await self._to_client(start)
        await self._to_client(message)

    def _on_end(self, run: asyncio.Task[None]) -> None:
        error = None if run.cancelled() else run.exception()
        if not self._recorded.done():
            if run.cancelled():
                self._recorded.cancel()
            else:
                no_response = RuntimeError("The application did not answer.")
                self._recorded.set_exception(error or no_response)
        elif error is not None and not self._is_forwarded.is_set():
            logger.error("after the response: %r", error, exc_info=error)
