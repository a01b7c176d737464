"""Load a response for the cache, by one run of the application.

The application sees the host, the canonical path and query, and the headers in `vary`, but nothing
else of the client's request: no state, user, session, address or request id. So a response that is
loaded for the cache depends on its key alone.

A response that is for one client only, or a stream, goes to the client of the run instead.
"""

import asyncio
from collections.abc import Collection, Mapping
from functools import partial
from http import HTTPStatus
from logging import getLogger
from typing import Any
from urllib.parse import quote_from_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import CREDENTIAL_HEADERS, Responder, declared
from app.core.cache.keys import ResponseKey
from app.core.cache.responses.rules import entry_of, is_shareable, tag_headers
from app.core.cache.store import NotShareable
from app.core.cache.store.entry import Entry
from app.core.http.problems import Unavailable, problem_response
from app.core.http.routing import route_path

# Items of the client's scope that a load gets; requests with one key have the same.
_IN_KEY = ("type", "asgi", "scheme", "root_path", "app")

logger = getLogger(__name__)


class FailedResponse(Unavailable):
    """The response is a 5xx: a stale one is sent instead, if the policy allows one."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("The response could not be loaded.")
        self.entry = entry


class ResponseLoad:
    """One load for a request with a key.

    Args:
        varying: normalised values of the headers in `vary`.
        state: the state of the lifespan, copied for the load.
        max_bytes: a larger body is not recorded.
        control: the directives of the client's `Cache-Control`.

    Attributes:
        response: status and headers of the response, once it is loaded.
    """

    def __init__(
        self,
        app: ASGIApp,
        key: ResponseKey,
        host: str,
        varying: dict[bytes, bytes],
        scope: Scope,
        receive: Receive,
        send: Send,
        state: Mapping[str, Any],
        max_bytes: int,
        control: Collection[bytes],
    ) -> None:
        self.response: tuple[int, h.Headers] | None = None
        self._app = app
        self._key = key
        self._host = host
        self._varying = varying
        self._client = scope, receive, send
        self._state = state
        self._max_bytes = max_bytes
        self._control = control
        self._has_client = True
        self._has_sent_request = False
        self._start: Message | None = None
        self._run: asyncio.Task[None] | None = None
        self._entry: asyncio.Future[Entry] = asyncio.get_running_loop().create_future()
        # Set when the response goes to the client, unrecorded.
        self._forwards = asyncio.Event()
        self._to_client: Send | None = None

    def __call__(self) -> "asyncio.Future[Entry]":
        """Begin to load; a cancelled result ends the load.

        Raises:
            NotShareable: when its client gets the response, has left, or sent `only-if-cached`.
            FailedResponse: when it is a 5xx.
        """
        if b"only-if-cached" in self._control:
            self._entry.set_exception(NotShareable())
        else:
            self._run = asyncio.create_task(self._application())
            self._run.add_done_callback(self._has_ended)
            self._entry.add_done_callback(self._may_stop)
        return self._entry

    async def finish(self) -> None:
        """Wait until the client has its whole response; raise the application's error here."""
        if self._run is not None:
            await self._run
        elif b"only-if-cached" in self._control:
            # RFC 9111, section 5.2.1.7.
            response = problem_response(
                HTTPStatus.GATEWAY_TIMEOUT,
                "The response is not in the cache.",
                headers={"Cache-Control": "no-store", "Cache-Status": "app; fwd=miss"},
            )
            await response(*self._client)

    def leave(self) -> None:
        """Drop the client, unless this run is sending to it."""
        self._has_client = self._forwards.is_set()

    async def _application(self) -> None:
        scope = scope_of_load(self._key, self._host, self._varying, self._client[0], self._state)
        await self._app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if not self._has_sent_request:
            self._has_sent_request = True
            return {"type": "http.request", "body": b"", "more_body": False}
        # Report a disconnect only when the response goes to this client.
        await self._forwards.wait()
        while (message := await self._client[1]())["type"] != "http.disconnect":
            pass
        return message

    async def _send(self, message: Message) -> None:
        """Record the response, or forward it to the client."""
        if self._to_client is not None:
            await self._to_client(message)
        elif message["type"] == "http.response.start":
            headers = [(name.lower(), value) for name, value in message.get("headers", ())]
            self._start = {**message, "headers": headers}
        elif self._start is not None and not self._entry.done():
            if self._may_record(self._start, message):
                self._record(self._start, message.get("body", b""))
            else:
                self._entry.set_exception(NotShareable())
                await self._forward(self._start, message)

    def _record(self, start: Message, body: bytes) -> None:
        """Make the entry of a whole response."""
        status, own, route = start["status"], start["headers"], self._key.route
        headers = declared(route.declaration, status, own)
        headers += tag_headers(self._key, headers)
        if status == HTTPStatus.OK and h.get(headers, b"etag") is None:
            headers.append((b"etag", h.etag_of(body)))
        self.response = status, headers
        entry = entry_of(status, headers, body, route.policy, h.get(own, b"cache-control"))
        if b"no-store" in self._control:
            entry.ttl_s = 0
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self._entry.set_exception(FailedResponse(entry))
        else:
            self._entry.set_result(entry)

    def _may_record(self, start: Message, message: Message) -> bool:
        credentials = self._key.route.declaration.credentials
        keyed = (*self._varying, *CREDENTIAL_HEADERS, *credentials)
        return (
            message["type"] == "http.response.body"
            and not message.get("more_body")
            and len(message.get("body", b"")) <= self._max_bytes
            and is_shareable(start["status"], start["headers"], keyed)
        )

    async def _forward(self, *messages: Message) -> None:
        """Send the response to the client from now on, in this task."""
        if not self._has_client:
            # A stream may have no end.
            assert self._run is not None
            self._run.cancel()
            return
        scope, _, send = self._client
        self._to_client = unrecorded(self._key, scope, send)
        self._forwards.set()
        for message in messages:
            await self._to_client(message)

    def _has_ended(self, run: asyncio.Task[None]) -> None:
        error = None if run.cancelled() else run.exception()
        if self._entry.done():
            if error is not None and not self._forwards.is_set():
                logger.error(
                    "the application failed after its response was recorded: %r",
                    error,
                    exc_info=error,
                )
        elif run.cancelled():
            self._entry.cancel()
        else:
            no_response = RuntimeError("The application did not answer.")
            self._entry.set_exception(error or no_response)

    def _may_stop(self, entry: "asyncio.Future[Entry]") -> None:
        if entry.cancelled() and self._run is not None:
            self._run.cancel()


def scope_of_load(
    key: ResponseKey,
    host: str,
    varying: Mapping[bytes, bytes],
    client: Scope,
    state: Mapping[str, Any],
) -> Scope:
    """Return the scope of a load, which has nothing of the client's but the key."""
    path = client["path"][: len(client["path"]) - len(route_path(client))] + key.path
    return {
        **{name: client[name] for name in _IN_KEY if name in client},
        "http_version": "1.1",
        "state": dict(state),
        "method": "GET",
        "headers": [
            (b"host", host.encode("latin-1")),
            *((name, value) for name, value in varying.items() if value),
        ],
        "path": path,
        "raw_path": quote_from_bytes(path.encode()).encode(),
        "query_string": key.query,
        "client": None,
        "server": None,
        # The middleware has named the route; a refresh outlives the request that telemetry
        # measures.
        "fastapi.telemetry": None,
        "extensions": {},
    }


def unrecorded(key: ResponseKey, scope: Scope, send: Send) -> Send:
    """Return the `send` of a load whose response goes to the client, and is not stored."""
    send = adding(send, key, (b"cache-status", b"app; fwd=miss"))
    return Responder(scope, send, partial(declared, key.route.declaration)).send


def adding(send: Send, key: ResponseKey | None, *more: tuple[bytes, bytes]) -> Send:
    """Return a `send` that adds the tags of the key, and `more`, to the headers of a response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            tags = tag_headers(key, headers) if key else []
            message = {**message, "headers": [*headers, *tags, *more]}
        await send(message)

    return send_with_headers
