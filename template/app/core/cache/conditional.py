"""Cache headers by the policy of the route, `ETag`, and 304 for a client that has the response.

A response in one piece gets an `ETag`; a stream passes as it comes.
"""

from collections.abc import Callable, Iterator
from functools import partial
from http import HTTPStatus
from typing import NamedTuple

from fastapi.dependencies.models import Dependant
from fastapi.security import APIKeyHeader
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.policy import CREDENTIALS, Audience, Policy, no_store, policy_of

CREDENTIAL_HEADERS = frozenset(name.encode() for name in CREDENTIALS)
# The response to a request with credentials on a public route, and every response with a cookie.
_ONE_CLIENTS_COPY = b"private, no-cache"


class Declaration(NamedTuple):
    """A policy, and the request headers that matter to the route."""

    policy: Policy
    # Names in `Vary`.
    vary: tuple[bytes, ...]
    credentials: frozenset[bytes]


class CacheHeaders:
    """ASGI middleware: `Cache-Control`, `Vary`, `ETag` and 304; HEAD wherever GET is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # By the function of the route.
        self._declarations: dict[object, Declaration] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request; the router has set the route by the time of the first message."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] == "HEAD":
            await self._head(scope, receive, send)
        else:
            complete = partial(self._complete, scope, scope)
            await self.app(scope, receive, Responder(scope, send, complete).send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer HEAD by a route of its own, else as GET without a body."""
        responder = Responder(scope, send, partial(self._complete, scope, scope))
        is_refused = False

        async def send_unless_refused(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start":
                is_refused = message["status"] == HTTPStatus.METHOD_NOT_ALLOWED
            if not is_refused:
                await responder.send(message)

        await self.app(scope, receive, send_unless_refused)
        if is_refused:
            # Without extensions, which would send a body past `send`.
            get = {**scope, "method": "GET", "extensions": {}}
            complete = partial(self._complete, get, scope)
            await self.app(get, receive, Responder(scope, send, complete).send)

    def _complete(
        self, scope: Scope, client_scope: Scope, status: int, headers: h.Headers
    ) -> h.Headers:
        """Return the headers with those of the policy of the route that the router has chosen."""
        declaration = self._declaration(scope)
        if declaration is None or not declaration.policy.is_storable:
            if h.get(headers, b"cache-control") is None:
                return [*headers, (b"cache-control", no_store.cache_control)]
            return headers
        names = declaration.credentials
        has_credentials = any(name in names for name, _ in client_scope["headers"])
        return declared(declaration, status, headers, has_credentials=has_credentials)

    def _declaration(self, scope: Scope) -> Declaration | None:
        endpoint = scope.get("endpoint")
        if endpoint is None or scope["method"] != "GET":
            return None
        declaration = self._declarations.get(endpoint)
        if declaration is None:
            dependant = getattr(scope.get("route"), "dependant", None)
            declaration = declare(policy_of(endpoint) or no_store, dependant)
            self._declarations[endpoint] = declaration
        return declaration


class Responder:
    """Sends a response on; a whole 200 may become a 304, and HEAD loses the body.

    Args:
        complete: adds headers to those of the response, by its status.
    """

    def __init__(
        self, scope: Scope, send: Send, complete: Callable[[int, h.Headers], h.Headers]
    ) -> None:
        self._send = send
        self._complete = complete
        self._is_head = scope["method"] == "HEAD"
        self._if_none_match = h.get(scope["headers"], b"if-none-match")
        self._held: Message | None = None

    async def send(self, message: Message) -> None:
        """Hold the start of a 200 until the next message shows whether it is a stream."""
        is_body = message["type"] == "http.response.body"
        if message["type"] == "http.response.start":
            headers = self._complete(message["status"], list(message.get("headers", ())))
            message = {**message, "headers": headers}
            if message["status"] == HTTPStatus.OK:
                self._held = message
                return
        elif self._held is not None:
            start, self._held = self._held, None
            if is_body and not message.get("more_body"):
                await respond(
                    self._send,
                    start["status"],
                    start["headers"],
                    message.get("body", b""),
                    self._if_none_match,
                    is_head=self._is_head,
                )
                return
            await self._send(start)
        await self._send({**message, "body": b""} if self._is_head and is_body else message)


def declare(policy: Policy, dependant: Dependant | None) -> Declaration:
    """Make the declaration of a route; its API key headers are credentials."""
    keys = {
        dependency.call.model.name.lower().encode()
        for dependency in (flat(dependant) if dependant else ())
        if isinstance(dependency.call, APIKeyHeader)
    }
    credentials = frozenset(CREDENTIAL_HEADERS | keys)
    vary = [name.encode() for name in policy.vary]
    if policy.audience is not Audience.EVERYBODY or policy.ignore_credentials:
        return Declaration(policy, tuple(vary), frozenset())
    if policy.is_reusable:
        # A cache outside of the service has to tell users apart.
        vary += sorted(credentials)
    return Declaration(policy, tuple(vary), credentials)


def declared(
    declaration: Declaration, status: int, headers: h.Headers, *, has_credentials: bool = False
) -> h.Headers:
    """Return the headers of a response with the `Cache-Control` and `Vary` of its policy."""
    added: h.Headers = []
    if h.get(headers, b"cache-control") is None:
        control = declaration.policy.cache_control_of(status)
        if has_credentials or is_one_clients(headers):
            control = _ONE_CLIENTS_COPY
        added.append((b"cache-control", control))
    if declaration.vary:
        said = h.items(h.get(headers, b"vary"))
        if b"*" not in said and (names := [n for n in declaration.vary if n not in said]):
            added.append((b"vary", b", ".join(names)))
    return [*headers, *added]


def is_one_clients(headers: h.Headers) -> bool:
    """Return whether the response sets a cookie."""
    return any(name == b"set-cookie" for name, _ in headers)


async def respond(
    send: Send,
    status: int,
    headers: h.Headers,
    body: bytes,
    if_none_match: bytes | None,
    *,
    is_head: bool,
) -> None:
    """Send a whole response; a 200 has an `ETag`, and becomes a 304 when the client has it."""
    if status == HTTPStatus.OK:
        etag = h.get(headers, b"etag")
        if etag is None and b"no-store" not in (h.get(headers, b"cache-control") or b""):
            etag = h.etag_of(body)
            headers = [*headers, (b"etag", etag)]
        if if_none_match is not None and etag is not None and h.matches(if_none_match, etag):
            status, headers, body = HTTPStatus.NOT_MODIFIED, h.of_304(headers), b""
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": b"" if is_head else body})


def flat(dependant: Dependant) -> Iterator[Dependant]:
    """Yield an endpoint's dependant and everything that it depends on."""
    yield dependant
    for dependency in dependant.dependencies:
        yield from flat(dependency)
