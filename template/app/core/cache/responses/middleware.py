"""The response cache: a shared cache (RFC 9111) in front of the router.

It answers GET and HEAD of routes whose policy has a `ttl_s`. This module answers hits of this
process, and passes on the requests that are not for the cache; `loading.py` has the rest.
"""

from collections.abc import Callable
from http import HTTPStatus
from math import floor
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import fastapi.routing
import orjson
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import CacheHeaders, respond
from app.core.cache.keys import KeyedRoute, ResponseKey, RouteTable, route_path
from app.core.cache.parameters import NotCacheable
from app.core.cache.responses.loading import KeyedRequest, ResponseLoader, Variants, tag_headers
from app.core.cache.responses.rules import normalised
from app.core.cache.store import Cache, Outcome, cache
from app.core.cache.store.entry import Entry
from app.core.telemetry.activity import set_cache_result

_READ_HERE = frozenset(
    (b"host", b"if-none-match", b"cache-control", b"content-length", b"transfer-encoding")
)
# The router tells FastAPI's telemetry the route by this function; it is private, and may disappear.
_route_selected = getattr(fastapi.routing, "_route_selected", None)


class Stored(NamedTuple):
    """A stored response without its body, ready to be sent."""

    status: int
    headers: h.Headers
    headers_304: h.Headers
    etag: bytes | None


class ResponseCache:
    """ASGI middleware: answers from the cache; sends all other requests on.

    Args:
        max_response_bytes: a larger body is not stored.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_response_bytes: int = 1024**2,
        store: Cache = cache,
    ) -> None:
        self._app = app
        self._uncached = CacheHeaders(app)
        # Known at the first request, when the application has all its routes.
        self._routes: RouteTable | None = None
        self._header_names: frozenset[bytes] = frozenset()
        self._store = store
        self._loader = ResponseLoader(app, store, max_bytes=max_response_bytes)
        self._variants = Variants()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # The server copies it into each request.
            self._loader.state = scope.get("state", {})
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._uncached(scope, receive, send)
            return
        routes = self._routes
        if routes is None:
            app = scope["app"]
            routes = self._routes = getattr(app.state, "cached_routes", None) or RouteTable(app)
            self._header_names = routes.headers | _READ_HERE
        path, query = route_path(scope), scope["query_string"]
        key = routes.remembered(path, query) if scope["method"] == "GET" else None
        if key is None:
            route = _find(routes, scope["method"], path)
            if route is None:
                await self._uncached(scope, receive, send)
                return
            try:
                key = routes.key(route, path, query)
            except NotCacheable:
                await self._bypass("parameters", route, scope, receive, send)
                return
        if key.route.policy.ttl_s:
            await self._answer(key, scope, receive, send)
        else:
            await self._uncached(scope, receive, _with_tags(key, send))

    async def _answer(self, key: ResponseKey, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stored response, one loaded for the cache, or the application's own."""
        label(scope, key.route)
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in self._header_names:
                headers[name] = value if name not in headers else b"%b, %b" % (headers[name], value)
        # Well-formed, and a host of this service: `Hosts` is outside.
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # The body of a GET is not part of the key.
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        is_anonymous = key.route.declaration.credentials.isdisjoint(headers)
        if not host or has_body or not is_anonymous:
            reason = "host" if not host else "body" if has_body else "credentials"
            await self._bypass(reason, key.route, scope, receive, _with_tags(key, send))
            return
        base = name = f"response {scope['scheme']}://{host}{scope.get('root_path', '')}{key.text}"
        varying, variant = {}, ""
        if key.route.vary:
            varying = {item: normalised(item, headers.get(item, b"")) for item in key.route.vary}
            variant = " ".join(map(quote_from_bytes, varying.values()))
            name = f"{base} {variant}"
        entry = self._store.local.fresh(name, key.tags)
        if entry is not None and (entry.parsed or parse(entry)):
            self._store.counts["local", "hit"] += 1
            set_cache_result(Outcome.HIT)
            await send_stored(entry, Outcome.HIT, scope, headers, send)
            return
        if variant and not self._variants.admit(base, variant, key.route.policy):
            await self._bypass("variants", key.route, scope, receive, _with_tags(key, send))
            return
        request = KeyedRequest(key, name, host, headers, varying)
        read, own = await self._loader.read(request, scope, receive, send)
        if read is None:
            return
        set_cache_result(read.outcome)
        if own is not None:
            # With the headers of this request, which are not stored.
            status = b"app; fwd=miss; stored" if read.is_stored else b"app; fwd=miss"
            more = [*own.headers, (b"cache-status", status)]
            await respond(scope, send, own.status, more, read.entry.body)
        elif read.entry.parsed or parse(read.entry):
            await send_stored(read.entry, read.outcome, scope, headers, send)
        else:
            await self._bypass("unreadable", key.route, scope, receive, send)

    async def _bypass(
        self, reason: str, route: KeyedRoute, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the application answer this client alone; count the reason, and tell the client."""
        if route.policy.ttl_s:
            self._store.counts["response", f"bypass-{reason}"] += 1
            set_cache_result("bypass")
            status = (b"cache-status", b"app; fwd=bypass; detail=%b" % reason.encode())
            send = _with_headers(send, lambda _: [status])
        await self._uncached(scope, receive, send)


def parse(entry: Entry) -> Stored | None:
    """Decode `entry.meta`, and remember it with the entry; None when it cannot be decoded."""
    try:
        status, pairs = orjson.loads(entry.meta)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        stored = Stored(int(status), headers, h.of_304(headers), h.get(headers, b"etag"))
    except (ValueError, TypeError, AttributeError):
        return None
    entry.parsed = stored
    return stored


async def send_stored(
    entry: Entry, outcome: Outcome, scope: Scope, request_headers: dict[bytes, bytes], send: Send
) -> None:
    """Send the response of a parsed entry; a 304 when the client has it."""
    stored: Stored = entry.parsed
    age_s = entry.age_s()
    left_s = floor(entry.ttl_s - age_s)
    if outcome is Outcome.MISS or outcome is Outcome.COLLAPSED:
        extra = [(b"cache-status", b"app; fwd=miss; collapsed")]
    else:
        how = b"fwd=stale" if outcome is Outcome.ERROR else b"hit"
        extra = [(b"age", b"%d" % age_s), (b"cache-status", b"app; %b; ttl=%d" % (how, left_s))]
    status, headers, body = stored.status, stored.headers, entry.body
    if (
        stored.etag is not None
        and status == HTTPStatus.OK
        and (if_none_match := request_headers.get(b"if-none-match")) is not None
        and h.matches(if_none_match, stored.etag)
    ):
        status, headers, body = 304, stored.headers_304, b""
    elif scope["method"] == "HEAD":
        body = b""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *extra]})
    await send({"type": "http.response.body", "body": body})


def _find(routes: RouteTable, method: str, path: str) -> KeyedRoute | None:
    """Return the keyed route of a GET, or of a HEAD without a route of its own."""
    route = routes.find("GET", path)
    if method == "HEAD" and routes.find("HEAD", path) not in (route, None):
        return None
    return route.keyed if route else None


def label(scope: Scope, route: KeyedRoute) -> None:
    """Name the route for telemetry: the router sees another scope, or none."""
    scope["route"] = route.labelled
    if _route_selected is not None:
        _route_selected(scope=scope, path=route.format)


def _with_tags(key: ResponseKey, send: Send) -> Send:
    def tags(headers: h.Headers) -> h.Headers:
        is_private = (h.get(headers, b"cache-control") or b"").startswith(b"private")
        return [] if is_private else tag_headers(key, headers)

    return _with_headers(send, tags)


def _with_headers(send: Send, more: Callable[[h.Headers], h.Headers]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            message = {**message, "headers": [*headers, *more(headers)]}
        await send(message)

    return send_with_headers
