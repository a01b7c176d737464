"""The response cache: a shared cache (RFC 9111) in front of the router.

It answers GET and HEAD of routes whose policy has a `ttl_s`. This module finds the stored response
or has it loaded by `loading.py`, and passes on the requests that are not for the cache.
"""

from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from math import floor
from time import monotonic
from typing import Any
from urllib.parse import quote_from_bytes

import fastapi.routing
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import CacheHeaders, respond
from app.core.cache.keys import KeyedRoute, ResponseKey, RouteTable
from app.core.cache.policy import Policy
from app.core.cache.responses.admission import Admission
from app.core.cache.responses.loading import (
    FailedResponse,
    ResponseLoad,
    adding,
    scope_of_load,
    unrecorded,
)
from app.core.cache.responses.repeated import HIT, Hit
from app.core.cache.responses.rules import (
    Stored,
    directives,
    lifetime_of,
    normalised,
    stored_of,
)
from app.core.cache.store import Cache, NotShareable, Outcome, Read, cache
from app.core.cache.store.entry import Entry, Freshness
from app.core.telemetry.activity import set_cache_result

# The most variants of one path and query.
MAX_VARIANTS = 8
# The most paths and queries whose variants are counted.
MAX_VARYING = 1024
_READ_HERE = frozenset(
    (b"host", b"if-none-match", b"cache-control", b"content-length", b"transfer-encoding")
)
# The router tells FastAPI's telemetry the route by this function; it is private, and may disappear.
_route_selected = getattr(fastapi.routing, "_route_selected", None)


class ResponseCache:
    """ASGI middleware: answers from the cache; sends all other requests on.

    Args:
        max_response_bytes: a larger body is not stored.
    """

    def __init__(
        self, app: ASGIApp, *, max_response_bytes: int = 1024**2, store: Cache = cache
    ) -> None:
        self._app = app
        self._uncached = CacheHeaders(app)
        self._max_bytes = max_response_bytes
        self._store = store
        # Known at the first request, when the application has all its routes.
        self._routes: RouteTable | None = None
        self._header_names: frozenset[bytes] = frozenset()
        self._admission = Admission()
        self._variants = Variants()
        # The state of the lifespan.
        self._state: Mapping[str, Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            # The server copies it into each request.
            self._state = scope.get("state", {})
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            await self._uncached(scope, receive, send)
            return
        routes = self._routes
        if routes is None:
            app = scope["app"]
            routes = self._routes = getattr(app.state, "cached_routes", None) or RouteTable(app)
            self._header_names = routes.headers | _READ_HERE
        route, key = routes.look_up(scope)
        if route is not None and route.policy.ignore_credentials:
            secret = routes.credentials
            scope["headers"] = [item for item in scope["headers"] if item[0] not in secret]
        if route is None:
            await self._uncached(scope, receive, send)
        elif not route.policy.ttl_s:
            await self._uncached(scope, receive, adding(send, key))
        elif key is None:
            await self._bypass("parameters", None, scope, receive, send)
        else:
            await self._answer(key, scope, receive, send)

    async def _answer(self, key: ResponseKey, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a stored response, one loaded for the cache, or the application's own."""
        label(scope, key.route)
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name in self._header_names:
                headers[name] = value if name not in headers else b"%b, %b" % (headers[name], value)
        # `Hosts` has checked this header.
        host = headers.get(b"host", b"").decode("latin-1").lower()
        # The body of a GET is not part of the key.
        has_body = b"transfer-encoding" in headers or headers.get(b"content-length", b"0") != b"0"
        is_anonymous = key.route.declaration.credentials.isdisjoint(headers)
        if not host or has_body or not is_anonymous:
            reason = "host" if not host else "body" if has_body else "credentials"
            await self._bypass(reason, key, scope, receive, send)
            return
        base = name = f"response {scope['scheme']}://{host}{scope.get('root_path', '')}{key.text}"
        varying, variant = {}, ""
        if key.route.vary:
            varying = {item: normalised(item, headers.get(item, b"")) for item in key.route.vary}
            variant = " ".join(map(quote_from_bytes, varying.values()))
            name = f"{base} {variant}"
        entry = self._store.local.get(name, key.tags)
        is_fresh = entry is not None and entry.freshness() is Freshness.FRESH
        if entry is not None and is_fresh and (stored := stored_of(entry)):
            self._store.counts["local", "hit"] += 1
            set_cache_result(Outcome.HIT)
            scope[HIT] = Hit(name, key.tags, stored, self._header_names)
            await send_stored(entry, stored, Outcome.HIT, scope, headers, send)
            return
        control = directives(headers.get(b"cache-control"))
        # A stale entry may be shown, or refreshed.
        is_absent = entry is None and b"only-if-cached" not in control
        is_rare = is_absent and not self._admission.admit(key.route, name)
        is_known = is_rare or not variant
        if not is_known and not self._variants.admit(base, variant, key.route.policy):
            await self._bypass("variants", key, scope, receive, send)
            return
        set_cache_result(Outcome.MISS)
        if is_rare:
            # Isolated like any load, because caches outside of the service may store it.
            load_scope = scope_of_load(key, host, varying, scope, self._state)
            to_client = unrecorded(key, scope, send)
            await self._store.start(lambda: self._app(load_scope, receive, to_client))
            return
        client = scope, receive, send
        load = ResponseLoad(
            self._app, key, host, varying, *client, self._state, self._max_bytes, control
        )
        try:
            read = await self._store.read(name, key.tags, load)
        except NotShareable:
            await load.finish()
            return
        except FailedResponse as failure:
            read = Read(failure.entry, Outcome.MISS, is_stored=False)
        finally:
            load.leave()
        set_cache_result(read.outcome)
        if is_absent and read.outcome is Outcome.HIT:
            self._admission.note_shared_hit(key.route)
        if read.outcome is Outcome.MISS and load.response is not None:
            # The response has headers that are not stored.
            code, own = load.response
            status = b"app; fwd=miss; stored" if read.is_stored else b"app; fwd=miss"
            await respond(scope, send, code, [*own, (b"cache-status", status)], read.entry.body)
        elif stored := stored_of(read.entry):
            await send_stored(read.entry, stored, read.outcome, scope, headers, send)
        else:
            await self._bypass("unreadable", key, scope, receive, send)

    async def _bypass(
        self, reason: str, key: ResponseKey | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the application answer this client alone; count the reason, and tell the client."""
        self._store.counts["response", f"bypass-{reason}"] += 1
        set_cache_result("bypass")
        status = b"app; fwd=bypass; detail=%b" % reason.encode()
        await self._uncached(scope, receive, adding(send, key, (b"cache-status", status)))


class Variants:
    """Counts the variants of each path and query, because clients choose the values of `vary`."""

    def __init__(self) -> None:
        # The time at which each variant expires, by path and query.
        self._ends: OrderedDict[str, dict[str, float]] = OrderedDict()

    def admit(self, base: str, variant: str, policy: Policy) -> bool:
        """Return whether the variant may be stored; expired variants do not count."""
        now = monotonic()
        ends = {name: end for name, end in self._ends.pop(base, {}).items() if end >= now}
        self._ends[base] = ends
        if len(self._ends) > MAX_VARYING:
            self._ends.popitem(last=False)
        if variant not in ends and len(ends) >= MAX_VARIANTS:
            return False
        ends[variant] = now + lifetime_of(policy)
        return True


async def send_stored(
    entry: Entry,
    stored: Stored,
    outcome: Outcome,
    scope: Scope,
    request_headers: dict[bytes, bytes],
    send: Send,
) -> None:
    """Send a stored response; a 304 when the client has it."""
    if outcome is Outcome.MISS or outcome is Outcome.COLLAPSED:
        extra = [(b"cache-status", b"app; fwd=miss; collapsed")]
    else:
        age_s = entry.age_s()
        how = b"fwd=stale" if outcome is Outcome.ERROR else b"hit"
        status_text = b"app; %b; ttl=%d" % (how, floor(entry.ttl_s - age_s))
        extra = [(b"age", b"%d" % age_s), (b"cache-status", status_text)]
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


def label(scope: Scope, route: KeyedRoute) -> None:
    """Put the route into the client's scope: loads have their own, and a hit meets no router."""
    scope["route"] = route.labelled
    if _route_selected is not None:
        _route_selected(scope=scope, path=route.format)
