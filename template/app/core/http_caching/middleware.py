"""Says of every response what caches may do with it, and answers 304 to whoever holds it already.

Responses in one piece get an `ETag`; streams pass as they come.
"""

from http import HTTPStatus
from typing import Any

import fastapi.routing
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http_caching import headers as h
from app.core.http_caching.policy import NEVER_STORED, Audience, Policy
from app.core.http_caching.routes import CachedRoute, NotCacheable, Routes, route_path

# How the router tells FastAPI's telemetry the route; it is private, and may go.
_route_selected = getattr(fastapi.routing, "_route_selected", None)
# For those with credentials, on a route that is only public for all others, and with a cookie.
OWN_COPY = b"private, no-cache"


class HttpCaching:
    """ASGI middleware: `Cache-Control`, `Vary`, surrogate keys, `ETag` and 304 by declaration."""

    def __init__(self, app: ASGIApp, *, routes: Routes) -> None:
        self.app = app
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method = scope["method"]
        route = None
        if method in ("GET", "HEAD"):
            path = route_path(scope)
            route = self.routes.find("GET", path)
            if method == "HEAD" and self.routes.find("HEAD", path) not in (route, None):
                # It has a route of its own.
                route = None
        if route is None or not route.policy.conditional:
            await self.app(scope, receive, _undeclared(send))
            return
        await self.answer(route, scope, receive, send)

    async def answer(self, route: CachedRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a GET or HEAD of a route that clients may keep."""
        await self.conditionally(route, scope, receive, send)

    async def conditionally(
        self,
        route: CachedRoute,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        cache_status: bytes | None = None,
    ) -> None:
        """Let the application answer; a client that holds the same response gets a 304."""
        responder = Responder(
            send,
            scope,
            Declared(self.routes, route, scope, credentials=self.has_credentials(route, scope)),
            extra=[] if cache_status is None else [(b"cache-status", cache_status)],
        )
        if scope["method"] == "HEAD":
            label(scope, route)
            # Without what would send a body past `send`.
            scope = {**scope, "method": "GET", "extensions": {}}
        await self.app(scope, receive, responder.send)

    def has_credentials(self, route: CachedRoute, scope: Scope) -> bool:
        """Whether the request is one user's, on a route that is only public for all others."""
        if route.policy.audience is not Audience.EVERYBODY or route.policy.ignore_credentials:
            return False
        names = h.CREDENTIAL_NAMES | self.routes.key_headers
        return any(name in names for name, _ in scope["headers"])


class Declared:
    """What the policy of a route adds to the headers of a response."""

    def __init__(
        self, routes: Routes, route: CachedRoute, scope: Scope, *, credentials: bool = False
    ) -> None:
        self.routes = routes
        self.route = route
        self.path = route_path(scope)
        self.query: bytes = scope["query_string"]
        self.credentials = credentials

    def headers(self, status: int, headers: h.Headers) -> h.Headers:
        """The response's headers, and those that the policy declares."""
        policy = self.route.policy
        added: h.Headers = []
        is_ones_own = self.credentials or any(name == b"set-cookie" for name, _ in headers)
        if h.get(headers, b"cache-control") is None:
            control = h.control_for(policy, status)
            added.append((b"cache-control", OWN_COPY if is_ones_own else control))
        if vary := self._vary(headers):
            added.append((b"vary", vary))
        if policy.cdn_s and policy.tags and not is_ones_own:
            try:
                tags = self.route.tags(self.path, self.query)
            except NotCacheable:
                tags = ()
            if tags:
                added.append((b"surrogate-key", " ".join(tags).encode()))
                added.append((b"cache-tag", ",".join(tags).encode()))
        return [*headers, *added] if added else headers

    def _vary(self, headers: h.Headers) -> bytes:
        policy = self.route.policy
        names = self.route.vary
        if _tells_users_apart(policy):
            names = (*names, *sorted(h.CREDENTIAL_NAMES | self.routes.key_headers))
        if not names:
            return b""
        said = h.items(h.get(headers, b"vary"))
        return b", ".join(name for name in names if name not in said and b"*" not in said)


class Responder:
    """Sends a response on, with what is declared; what comes in one piece may become a 304."""

    def __init__(self, send: Send, scope: Scope, declared: Declared, *, extra: h.Headers) -> None:
        self._send = send
        self._declared = declared
        self._extra = extra
        self._is_head = scope["method"] == "HEAD"
        self._if_none_match = h.get(scope["headers"], b"if-none-match")
        self._start: Message | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = self._declared.headers(message["status"], list(message.get("headers", ())))
            # Kept until the body shows whether it is a stream.
            self._start = {**message, "headers": headers}
            return
        if self._start is not None:
            start, self._start = self._start, None
            whole = message["type"] == "http.response.body" and not message.get("more_body")
            if whole and start["status"] == HTTPStatus.OK:
                response = (start["headers"], message.get("body", b""))
                await respond(
                    self._send, HTTPStatus.OK, *response, self._if_none_match, self._extra,
                    head=self._is_head,
                )  # fmt: skip
                return
            start["headers"] += self._extra
            await self._send(start)
        if self._is_head and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)


def label(scope: Scope, route: CachedRoute) -> None:
    """For whoever measures the request: the router may see another scope, or none."""
    scope["route"] = route.route
    if _route_selected is not None:
        _route_selected(scope=scope, path=route.format)


async def respond(
    send: Send,
    status: int,
    headers: h.Headers,
    body: bytes,
    if_none_match: bytes | None,
    extra: h.Headers,
    *,
    head: bool,
) -> None:
    """Send a response that is all there; a success has an `ETag`, or becomes a 304."""
    if status == HTTPStatus.OK:
        etag = h.get(headers, b"etag")
        if etag is None and b"no-store" not in (h.get(headers, b"cache-control") or b""):
            etag = h.etag_of(body)
            headers = [*headers, (b"etag", etag)]
        if if_none_match is not None and etag is not None and h.matches(if_none_match, etag):
            status, headers, body = HTTPStatus.NOT_MODIFIED, h.of_304(headers), b""
    await send(
        {"type": "http.response.start", "status": int(status), "headers": [*headers, *extra]}
    )
    await send({"type": "http.response.body", "body": b"" if head else body})


def _undeclared(send: Send) -> Send:
    async def send_with_header(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers: Any = message.get("headers", ())
            for name, _ in headers:
                if name == b"cache-control":
                    break
            else:
                message["headers"] = [*headers, (b"cache-control", NEVER_STORED.cache_control)]
        await send(message)

    return send_with_header


def _tells_users_apart(policy: Policy) -> bool:
    """Whether a copy outside of the service could be shown to whoever has other credentials."""
    return policy.audience is Audience.EVERYBODY and policy.reused and not policy.ignore_credentials
