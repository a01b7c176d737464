"""Cache headers by the policy of the route, `ETag`, and 304 for a client that has the response.

A response in one piece gets an `ETag`; a stream passes as it comes.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.security import APIKeyHeader
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.policy import CREDENTIALS, Audience, Policy, no_store, policy_of
from app.core.http.routing import flat
from app.core.http.streams import is_event_stream

CREDENTIAL_HEADERS = frozenset(name.encode() for name in CREDENTIALS)
# The response to a request with credentials on a public route, and every response with a cookie.
_ONE_CLIENTS_COPY = b"private, no-cache"


class Declaration(NamedTuple):
    """A policy, and the request headers that matter to the route."""

    policy: Policy
    # Names in `Vary`.
    vary: tuple[bytes, ...]
    credentials: frozenset[bytes]


_UNDECLARED = Declaration(no_store, (), frozenset())


class CacheHeaders:
    """ASGI middleware: `Cache-Control`, `Vary`, `ETag`, 304, and HEAD for routes with a policy."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Made at the first request, when the application has all its routes.
        self._declarations: dict[object, Declaration] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        if self._declarations is None:
            self._declarations = declarations(scope["app"])
        if scope["method"] == "HEAD":
            return self._head(scope, receive, send)
        responder = Responder(scope, send, partial(self._complete, scope))
        return self.app(scope, receive, responder.send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD by a route of its own, else by the GET route."""
        # Copied before the application changes the scope, and without extensions, which would
        # send a body past `send`.
        get = {**scope, "method": "GET", "extensions": {}}
        responder = Responder(scope, send, partial(self._complete, scope))
        is_refused = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_refused
            is_refused = is_refused or message.get("status") == HTTPStatus.METHOD_NOT_ALLOWED
            if not is_refused:
                await responder.send(message)

        await self.app(scope, receive, send_unless_refused)
        if is_refused:
            await self.app(get, receive, Responder(scope, send, partial(self._complete, get)).send)

    def _complete(self, scope: Scope, status: int, headers: h.Headers) -> h.Headers:
        """Add the headers of the policy of the route, which the router has set by now."""
        declaration = _UNDECLARED
        endpoint = scope.get("endpoint")
        if scope["method"] == "GET" and policy_of(endpoint) is not None:
            # A mounted application is not declared: nothing has checked its policies.
            declaration = (self._declarations or {}).get(endpoint, _UNDECLARED)
        secret = declaration.credentials
        has_credentials = bool(secret and [1 for name, _ in scope["headers"] if name in secret])
        return declared(declaration, status, headers, has_credentials=has_credentials)


class Responder:
    """Sends a response on; a whole 200 may become a 304, and HEAD ends before the body.

    Args:
        complete: adds headers to those of the response, by its status.
    """

    def __init__(
        self, scope: Scope, send: Send, complete: Callable[[int, h.Headers], h.Headers]
    ) -> None:
        self._scope = scope
        self._send = send
        self._complete = complete
        self._held: Message | None = None
        self._has_ended = False

    def send(self, message: Message) -> Awaitable[None]:
        """Hold the start of a 200 with an `ETag` until the next message tells it from a stream."""
        if message["type"] == "http.response.start" and not self._has_ended:
            headers = self._complete(message["status"], message.get("headers", []))
            message = {**message, "headers": headers}
            if message["status"] == HTTPStatus.OK and self._scope["method"] in ("GET", "HEAD"):
                control = h.get(headers, b"cache-control") or b""
                if b"no-store" not in control or h.get(headers, b"etag") is not None:
                    return self._hold(message)
        if self._held is None and self._scope["method"] != "HEAD":
            return self._send(message)
        return self._send_next(message)

    async def _hold(self, start: Message) -> None:
        self._held = start

    async def _send_next(self, message: Message) -> None:
        """Send a message after the start that is held, or one of a HEAD."""
        if self._has_ended:
            # An endless stream is cancelled as soon as its task waits.
            await asyncio.sleep(0)
            return
        start, self._held = self._held, None
        if start is not None:
            if not message.get("more_body"):
                body = message.get("body", b"")
                await respond(self._scope, self._send, start["status"], start["headers"], body)
                return
            await self._send(start)
        if self._scope["method"] != "HEAD":
            await self._send(message)
            return
        self._has_ended = True
        if message["type"] == "http.response.start":
            await self._send(message)
        await self._send({"type": "http.response.body"})


def declarations(app: FastAPI) -> dict[object, Declaration]:
    """Return the declarations of all routes with a policy, by the functions of the routes."""
    contexts = list(iter_route_contexts(app.router.routes))
    # An endpoint can read the header of an API key without its scheme.
    api_keys = frozenset(
        dependency.call.model.name.lower().encode()
        for context in contexts
        if (dependant := getattr(context, "dependant", None)) is not None
        for dependency in flat(dependant)
        if isinstance(dependency.call, APIKeyHeader)
    )
    return {
        context.endpoint: _declare(policy, api_keys)
        for context in contexts
        if (policy := policy_of(context.endpoint)) is not None
    }


def _declare(policy: Policy, api_keys: frozenset[bytes]) -> Declaration:
    """Make the declaration of a route; the API key headers of all routes are credentials."""
    vary = [name.encode() for name in policy.vary]
    if policy.audience is not Audience.EVERYBODY or policy.ignore_credentials:
        return Declaration(policy, tuple(vary), frozenset())
    credentials = CREDENTIAL_HEADERS | api_keys
    if policy.is_reusable:
        # A cache outside of the service has to tell users apart.
        vary += sorted(credentials)
    return Declaration(policy, tuple(vary), credentials)


def declared(
    declaration: Declaration, status: int, headers: h.Headers, *, has_credentials: bool = False
) -> h.Headers:
    """Return the headers of a response with the `Cache-Control` and `Vary` of its policy."""
    added: h.Headers = []
    names = {name for name, _ in headers}
    if (b"cache-control", b"no-cache") in headers and is_event_stream(headers):
        # FastAPI sets this header on every event stream.
        headers = [item for item in headers if item[0] != b"cache-control"]
        names.discard(b"cache-control")
    if b"cache-control" not in names:
        control = declaration.policy.cache_control_of(status)
        is_one_clients = has_credentials or b"set-cookie" in names
        if is_one_clients and declaration.policy.audience is not Audience.NOBODY:
            control = _ONE_CLIENTS_COPY
        added.append((b"cache-control", control))
    vary: Sequence[bytes] = declaration.vary
    if b"vary" in names:
        said = h.items(h.get(headers, b"vary"))
        vary = [] if b"*" in said else [name for name in vary if name not in said]
    if vary:
        added.append((b"vary", b", ".join(vary)))
    return [*headers, *added]


async def respond(scope: Scope, send: Send, status: int, headers: h.Headers, body: bytes) -> None:
    """Send a whole response; a 200 has an `ETag`, and becomes a 304 when the client has it."""
    if status == HTTPStatus.OK:
        etag = h.get(headers, b"etag")
        # A HEAD route of its own has no body to make one from.
        if etag is None and (body or scope["method"] == "GET"):
            etag = h.etag_of(body)
            headers = [*headers, (b"etag", etag)]
        if_none_match = h.get(scope["headers"], b"if-none-match")
        if if_none_match is not None and etag is not None and h.matches(if_none_match, etag):
            status, headers, body = HTTPStatus.NOT_MODIFIED, h.of_304(headers), b""
    body = b"" if scope["method"] == "HEAD" else body
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
