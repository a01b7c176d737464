"""The response cache: a shared cache (RFC 9111) in front of the router.

It answers GET and HEAD of routes whose policy has a `ttl_s`. A response that is loaded for it
depends on the key alone: the application sees the host, the canonical path and query, and the
headers in `vary`, but nothing else of the client's request.
"""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import fastapi.routing
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import (
    CREDENTIAL_HEADERS,
    CacheHeaders,
    Responder,
    declared,
    respond,
)
from app.core.cache.keys import KeyedRoute, ResponseKey, RouteTable, route_path
from app.core.cache.parameters import NotCacheable
from app.core.cache.policy import Policy
from app.core.cache.responses.recorder import Client, Recorded, Recorder
from app.core.cache.responses.rules import directives, is_shareable, normalised
from app.core.cache.responses.stored import (
    FailedResponse,
    complete,
    loaded,
    parse,
    send_stored,
    tag_headers,
)
from app.core.cache.store import Cache, Loaded, NotShareable, Outcome, Read, cache
from app.core.http.problems import problem_response

# Of one path and query; and the number of these whose variants are counted.
MAX_VARIANTS = 8
MAX_VARYING = 1024
_HOST = re.compile(r"[a-z0-9._:\[\]-]{1,255}").fullmatch
# They identify a request, and shape no body.
_IDENTITY = frozenset((b"traceparent", b"tracestate", b"x-request-id"))
# Keys of the scope that the server sets, alike for all clients of a host.
_SERVER_KEYS = ("type", "asgi", "http_version", "scheme", "server", "root_path", "app")
_READ_HERE = frozenset(
    (b"host", b"if-none-match", b"cache-control", b"content-length", b"transfer-encoding")
)
# The router tells FastAPI's telemetry the route by this function; it is private, and may go.
_route_selected = getattr(fastapi.routing, "_route_selected", None)


class Request(NamedTuple):
    """A request with a key."""

    key: ResponseKey
    host: str
    # Those that concern the cache.
    headers: dict[bytes, bytes]
    # Those of `vary`, in their normal form.
    varying: dict[bytes, bytes]


class ResponseCache:
    """ASGI middleware: answers from the cache; sends all other requests on.

    Args:
        hosts: hosts whose responses are stored; empty for all hosts.
        max_response_bytes: a larger body is not stored.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: Collection[str] = (),
        max_response_bytes: int = 1024**2,
        store: Cache = cache,
    ) -> None:
        self._app = app
        self._uncached = CacheHeaders(app)
        # Compiled at the first request, when the application has all its routes.
        self._routes = RouteTable()
        self._names: frozenset[bytes] = frozenset()
        self._hosts = frozenset(host.lower() for host in hosts)
        self._max_response_bytes = max_response_bytes
        self._store = store
        self._variants = Variants()
        # Of the lifespan; the server copies it into each request.
        self._state: Mapping[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self._state = scope.get("state", {})
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._uncached(scope, receive, send)
            return
        if not self._routes.is_compiled:
            self._routes.compile(scope["app"])
            self._names = self._routes.headers | _READ_HERE
        path, query = route_path(scope), scope["query_string"]
        key = self._routes.remembered(path, query) if scope["method"] == "GET" else None
        if key is None:
            route = self._find(scope["method"], path)
            if route is None:
                await self._uncached(scope, receive, send)
                return
            try:
                key = self._routes.key(route, path, query)
            except NotCacheable:
                await self._bypass(route, scope, receive, send)
                return
        if key.route.policy.ttl_s:
            await self._answer(key, scope, receive, send)
        else:
            await self._uncached(scope, receive, _with_tags(key, send))

    async def _answer(self, key: ResponseKey, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer from the cache, from the application for the cache, or by the application."""
        label(scope, key.route)
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in self._names:
                headers[name] = value if name not in headers else b"%b, %b" % (headers[name], value)
        host = self._host(headers)
        # The body of a GET is not part of the key.
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        is_anonymous = key.route.declaration.credentials.isdisjoint(headers)
        if host is None or has_body or not is_anonymous:
            await self._bypass(key.route, scope, receive, _with_tags(key, send))
            return
        base = text = f"response {scope['scheme']}://{host}{key.text}"
        varying, variant = {}, ""
        if key.route.vary:
            varying = {name: normalised(name, headers.get(name, b"")) for name in key.route.vary}
            variant = " ".join(map(quote_from_bytes, varying.values()))
            text = f"{base} {variant}"
        entry = self._store.peek(text, key.tags)
        if entry is not None and (entry.parsed or parse(entry)):
            await send_stored(entry, Outcome.HIT, scope, headers, send)
        elif variant and not self._variants.admit(base, variant, key.route.policy):
            await self._bypass(key.route, scope, receive, _with_tags(key, send))
        else:
            await self._load(text, Request(key, host, headers, varying), scope, receive, send)

    async def _load(
        self, text: str, request: Request, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Answer with an entry that is not in this process, or that the application has to make."""
        control = directives(request.headers.get(b"cache-control"))
        only_if_cached = b"only-if-cached" in control
        recorder = self._recorder(request, scope, receive, send)
        recorded: Recorded | None = None

        async def load() -> Loaded:
            nonlocal recorded
            if only_if_cached:
                raise NotShareable
            own = await recorder.record()
            recorded = complete(own, request.key)
            return loaded(recorded, request.key.route.policy, h.get(own.headers, b"cache-control"))

        try:
            keep = b"no-store" not in control
            read = await self._store.read(text, request.key.tags, load, keep=keep)
        except NotShareable:
            if not only_if_cached:
                await recorder.finish()
                return
            # RFC 9111, section 5.2.1.7.
            response = problem_response(
                HTTPStatus.GATEWAY_TIMEOUT,
                "The response is not in the cache.",
                headers={"Cache-Control": "no-store", "Cache-Status": "app; fwd=miss"},
            )
            await response(scope, receive, send)
            return
        except FailedResponse as failure:
            read = Read(failure.entry, Outcome.MISS, is_stored=False)
        finally:
            recorder.leave()
        if read.outcome is Outcome.MISS and recorded is not None:
            # With the headers of this request, which are not stored.
            status = b"app; fwd=miss; stored" if read.is_stored else b"app; fwd=miss"
            headers = [*recorded.headers, (b"cache-status", status)]
            await respond(scope, send, recorded.status, headers, read.entry.body)
        elif read.entry.parsed or parse(read.entry):
            await send_stored(read.entry, read.outcome, scope, request.headers, send)
        else:
            await self._bypass(request.key.route, scope, receive, send)

    def _recorder(self, request: Request, scope: Scope, receive: Receive, send: Send) -> Recorder:
        route = request.key.route
        keyed = frozenset((*request.varying, *CREDENTIAL_HEADERS, *route.declaration.credentials))

        def complete(status: int, headers: h.Headers) -> h.Headers:
            headers = declared(route.declaration, status, headers)
            tags = tag_headers(request.key, headers)
            return [*headers, *tags, (b"cache-status", b"app; fwd=miss")]

        return Recorder(
            self._app,
            _keyed_scope(scope, request, self._state),
            Client(receive, Responder(scope, send, complete).send),
            is_shareable=lambda status, headers: is_shareable(status, headers, keyed),
            max_bytes=self._max_response_bytes,
        )

    async def _bypass(self, route: KeyedRoute, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the application answer this client alone."""
        if route.policy.ttl_s:
            self._store.counts["response", "bypass"] += 1
            send = _with_headers(send, lambda _: [(b"cache-status", b"app; fwd=bypass")])
        await self._uncached(scope, receive, send)

    def _find(self, method: str, path: str) -> KeyedRoute | None:
        """Return the keyed route of a GET, or of a HEAD without a route of its own."""
        route = self._routes.find("GET", path)
        if method == "HEAD" and self._routes.find("HEAD", path) not in (route, None):
            return None
        return route.keyed if route else None

    def _host(self, headers: dict[bytes, bytes]) -> str | None:
        """Return the host in lower case; None when its responses are not stored."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        is_served = not self._hosts or not self._hosts.isdisjoint((host, host.rpartition(":")[0]))
        return host if is_served and _HOST(host) else None


class Variants:
    """Counts the variants of each path and query, because clients choose the values of `vary`."""

    def __init__(self) -> None:
        self._ends: OrderedDict[str, dict[str, float]] = OrderedDict()

    def admit(self, base: str, variant: str, policy: Policy) -> bool:
        """Return whether the variant may be stored; expired variants do not count."""
        now = monotonic()
        ends = self._ends.setdefault(base, {})
        self._ends.move_to_end(base)
        if len(self._ends) > MAX_VARYING:
            self._ends.popitem(last=False)
        if variant not in ends and len(ends) >= MAX_VARIANTS:
            for name in [name for name, end in ends.items() if end < now]:
                del ends[name]
            if len(ends) >= MAX_VARIANTS:
                return False
        stale_s = max(policy.stale_while_revalidate_s, policy.stale_if_error_s)
        ends[variant] = now + policy.ttl_s + stale_s
        return True


def label(scope: Scope, route: KeyedRoute) -> None:
    """Name the route for telemetry: the router sees another scope, or none."""
    scope["route"] = route.route
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


def _keyed_scope(scope: Scope, request: Request, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the request as the application sees it: its key, and its identity."""
    key = request.key
    headers = [(b"host", request.host.encode("latin-1"))]
    headers += [(name, value) for name, value in request.varying.items() if value]
    headers += [(name, value) for name, value in scope["headers"] if name in _IDENTITY]
    root = scope["path"][: len(scope["path"]) - len(route_path(scope))]
    path = root + key.path
    return {
        **{name: scope[name] for name in _SERVER_KEYS if name in scope},
        # Of the lifespan, without the additions of outer middleware for this client.
        "state": dict(state),
        "method": "GET",
        "headers": headers,
        "path": path,
        "raw_path": quote_from_bytes(path.encode()).encode(),
        "query_string": key.query,
        "client": None,
        # `label` has named the route; a refresh outlives the request that telemetry measures.
        "fastapi.telemetry": None,
        "extensions": {},
    }
