"""Load a response that is not in this process: from the store, or by one run of the application.

The application sees the host, the canonical path and query, and the headers in `vary`, but nothing
else of the client's request: no state, user, session, address or request id. So a response that is
loaded for the cache depends on its key alone.
"""

from collections import OrderedDict
from collections.abc import Mapping
from functools import partial
from http import HTTPStatus
from time import monotonic
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import orjson
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import CREDENTIAL_HEADERS, Responder, declared
from app.core.cache.keys import ResponseKey, route_path
from app.core.cache.policy import Policy
from app.core.cache.responses.recorder import Recorded, Recorder
from app.core.cache.responses.rules import directives, is_shareable, storable, ttl_of
from app.core.cache.store import Cache, Loaded, NotShareable, Outcome, Read
from app.core.cache.store.entry import Entry
from app.core.http.problems import Unavailable, problem_response

# The most variants of one path and query; and the most paths and queries that are counted.
MAX_VARIANTS = 8
MAX_VARYING = 1024
# Items of the client's scope that a load gets; requests with one key have the same.
_IN_KEY = ("type", "asgi", "scheme", "root_path", "app")


class KeyedRequest(NamedTuple):
    """A request with a key."""

    key: ResponseKey
    # The name of the entry: the key with the host, and with the values of `vary`.
    name: str
    host: str
    # Request headers that the cache reads.
    headers: dict[bytes, bytes]
    # Normalised values of the headers in `vary`.
    varying: dict[bytes, bytes]


class FailedResponse(Unavailable):
    """The response is a 5xx: a stale one is sent instead, if the policy allows one."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("The response could not be loaded.")
        self.entry = entry


class ResponseLoader:
    """Loads responses through `store`, each once for all clients that wait for it.

    Attributes:
        state: the state of the lifespan, copied for each load.
    """

    def __init__(self, app: ASGIApp, store: Cache, *, max_bytes: int) -> None:
        self._app = app
        self._store = store
        self._max_bytes = max_bytes
        self.state: Mapping[str, Any] = {}

    async def read(
        self, request: KeyedRequest, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Read | None, Recorded | None]:
        """Return the entry, and its response if it was loaded for this request.

        Without an entry, the client has its response already: its own one, or the 504 of
        `only-if-cached`.
        """
        control = directives(request.headers.get(b"cache-control"))
        only_if_cached = b"only-if-cached" in control
        recorder = self._recorder(request, scope, receive, send)
        own: Recorded | None = None

        async def load() -> Loaded:
            nonlocal own
            if only_if_cached:
                raise NotShareable
            recorded = await recorder.record()
            headers = _complete(recorded.status, recorded.headers, request.key)
            if recorded.status == HTTPStatus.OK and h.get(headers, b"etag") is None:
                headers.append((b"etag", h.etag_of(recorded.body)))
            own = recorded._replace(headers=headers)
            own_control = h.get(recorded.headers, b"cache-control")
            return entry_of(own, request.key.route.policy, own_control)

        try:
            keep = b"no-store" not in control
            read = await self._store.read(request.name, request.key.tags, load, keep=keep)
        except NotShareable:
            if not only_if_cached:
                await recorder.finish()
                return None, None
            # RFC 9111, section 5.2.1.7.
            response = problem_response(
                HTTPStatus.GATEWAY_TIMEOUT,
                "The response is not in the cache.",
                headers={"Cache-Control": "no-store", "Cache-Status": "app; fwd=miss"},
            )
            await response(scope, receive, send)
            return None, None
        except FailedResponse as failure:
            read = Read(failure.entry, Outcome.MISS, is_stored=False)
        finally:
            recorder.leave()
        return read, own if read.outcome is Outcome.MISS else None

    def _recorder(
        self, request: KeyedRequest, scope: Scope, receive: Receive, send: Send
    ) -> Recorder:
        route = request.key.route

        def forwarded(status: int, headers: h.Headers) -> h.Headers:
            return [*_complete(status, headers, request.key), (b"cache-status", b"app; fwd=miss")]

        def may_record(status: int, headers: h.Headers) -> bool:
            credentials = (*CREDENTIAL_HEADERS, *route.declaration.credentials)
            return is_shareable(status, headers, frozenset((*request.varying, *credentials)))

        return Recorder(
            self._app,
            partial(_keyed_scope, scope, request, self.state),
            receive,
            Responder(scope, send, forwarded).send,
            is_shareable=may_record,
            max_bytes=self._max_bytes,
        )


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


def _complete(status: int, headers: h.Headers, key: ResponseKey) -> h.Headers:
    """Return the headers with those of the policy and the tags for CDNs."""
    headers = declared(key.route.declaration, status, headers)
    return [*headers, *tag_headers(key, headers)]


def entry_of(recorded: Recorded, policy: Policy, own_control: bytes | None) -> Loaded:
    """Make the entry of a response; FailedResponse for a 5xx; `own_control` as in `ttl_of`."""
    pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in storable(recorded.headers)]
    is_found = recorded.status == HTTPStatus.OK
    entry = Entry(
        recorded.body,
        meta=orjson.dumps([recorded.status, pairs]),
        ttl_s=ttl_of(policy, recorded.status, own_control),
        stale_while_revalidate_s=policy.stale_while_revalidate_s if is_found else 0,
        stale_if_error_s=policy.stale_if_error_s if is_found else 0,
    )
    if recorded.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise FailedResponse(entry)
    return Loaded(entry, keep=entry.ttl_s > 0)


def tag_headers(key: ResponseKey, headers: h.Headers) -> h.Headers:
    """Return the tags in the headers by which CDNs invalidate."""
    if not (key.tags and key.route.policy.s_maxage_s) or h.get(headers, b"set-cookie") is not None:
        return []
    return [
        (b"surrogate-key", " ".join(key.tags).encode()),
        (b"cache-tag", ",".join(key.tags).encode()),
    ]


def _keyed_scope(scope: Scope, request: KeyedRequest, state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scope of a load, which has nothing of the client but what is in the key."""
    key = request.key
    headers = [(b"host", request.host.encode("latin-1"))]
    headers += [(name, value) for name, value in request.varying.items() if value]
    path = scope["path"][: len(scope["path"]) - len(route_path(scope))] + key.path
    return {
        **{name: scope[name] for name in _IN_KEY if name in scope},
        "http_version": "1.1",
        "state": dict(state),
        "method": "GET",
        "headers": headers,
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
