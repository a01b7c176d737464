"""Repeated hits: the server answers them itself, without calling the application.

The first hit of equal requests goes through all middleware, and shows the head that the server
writes. The next ones get that head again, as long as this process has the same entry.
"""

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from logging import getLogger
from typing import Any, NamedTuple

from fastapi import FastAPI
from starlette.types import Scope

from app.core.cache.responses.rules import Stored
from app.core.cache.store import Cache, Outcome, cache
from app.core.cache.store.entry import Freshness
from app.core.http.serialization import lines
from app.core.operations.admin import Admin
from app.core.telemetry.activity import current
from app.core.telemetry.requests import Header, MeasuredRequest

logger = getLogger(__name__)

# The most targets, the most different requests of each, and the most bytes that one takes.
MAX_TARGETS = 1024
MAX_REQUESTS = 8
MAX_BYTES = 4096
# The objects of one header.
_HEADER_BYTES = 100
# The item of a scope in which the cache leaves its `Hit`.
HIT = "app.hit"
_FORWARDED = b"x-forwarded-proto"
# The headers that decide about an answer, besides those that the cache reads.
_READ_OUTSIDE = frozenset((b"origin", b"cookie", _FORWARDED))
# Telemetry adds them last, with values of their own for each request.
_TELEMETRY = frozenset((b"x-request-id", b"server-timing", b"x-process-time"))
_AGES = {b"age": b"age: %d", b"cache-status": b"cache-status: app; hit; ttl=%d"}
# Such a response ends its connection, or has a body in another form than its entry.
_NOT_REPEATED = frozenset((b"connection", b"transfer-encoding"))
# The items of a scope that reports name.
_REPORTED = ("type", "method", "path", "route", "fastapi")


class Hit(NamedTuple):
    """A response that the cache of this process had.

    Attributes:
        name: the key of the entry.
        read: the names of the request headers that the cache reads.
    """

    name: str
    tags: tuple[str, ...]
    stored: Stored
    read: frozenset[bytes]


class _Known(NamedTuple):
    """The answer to equal requests; `head` has a `%d` for the age, and one for the rest of it."""

    hit: Hit
    status: int
    status_line: bytes
    head: bytes
    reported: Mapping[str, Any]
    begin: Callable[[Scope, int, str], tuple[MeasuredRequest, list[Header]]]


class RepeatedHits:
    """The answers of an application without middleware of the team's own.

    Such middleware sees every request, because it may refuse, change or count it.
    """

    def __init__(self, app: FastAPI, *, store: Cache = cache) -> None:
        self._app = app
        self._middleware = list(app.user_middleware)
        self._store = store
        self._read = _READ_OUTSIDE
        # By the target: a URL as in the request.
        self.known: dict[bytes, dict[tuple[Any, ...], _Known]] = {}

    def answer(self, connection: Any) -> bool:
        """Write the answer to a GET of a `known` target, and report the request.

        Return False if the application has to answer.

        Args:
            connection: uvicorn's, which has received the head of the request.
        """
        known = self.known[connection.url].get(self._key(connection, connection.headers))
        if known is None:
            return False
        entry = self._store.local.get(known.hit.name, known.hit.tags)
        if entry is None or entry.parsed is not known.hit.stored:
            return False
        if entry.freshness() is not Freshness.FRESH:
            return False
        self._store.counts["local", "hit"] += 1
        scope = {**known.reported, "headers": connection.headers}
        request, added = known.begin(scope, known.status, Outcome.HIT)
        age_s = entry.age_s()
        head = known.head % (age_s, entry.ttl_s - age_s)
        parts = [known.status_line, lines(connection.server_state.default_headers)]
        parts += [head, lines(added), b"\r\n"]
        if known.status != HTTPStatus.NOT_MODIFIED:
            parts.append(entry.body)
        connection.transport.write(b"".join(parts))
        # Log lines name the current request.
        token = current.set(request)
        try:
            request.finish(known.status)
        except Exception:
            # The client has its response.
            logger.exception("after the response")
        finally:
            current.reset(token)
        return True

    def learn(
        self, connection: Any, url: bytes, headers: Sequence[Header], scope: Scope, head: bytes
    ) -> None:
        """Remember the `head` that was written for a request, if its response was a hit."""
        hit: Hit | None = scope.get(HIT)
        first = current.get()
        sizes = [len(name) + len(value) + _HEADER_BYTES for name, value in headers]
        size = len(url) + len(head) + sum(sizes)
        # A trace has a span for each request.
        if hit is None or "fastapi.telemetry" in scope or size > MAX_BYTES:
            return
        if not isinstance(first, MeasuredRequest) or self._has_other_middleware():
            return
        status_line, *fields = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        while fields and fields[-1].partition(b":")[0] in _TELEMETRY:
            fields.pop()
        kept = []
        for line in fields[len(connection.server_state.default_headers) :]:
            name = line.partition(b":")[0]
            if name in _NOT_REPEATED:
                return
            kept.append(_AGES.get(name) or line.replace(b"%", b"%%"))
        self._read = hit.read | _READ_OUTSIDE
        if url not in self.known and len(self.known) >= MAX_TARGETS:
            # The oldest one.
            del self.known[next(iter(self.known))]
        equal = self.known.setdefault(url, {})
        key = self._key(connection, headers)
        if key not in equal and len(equal) >= MAX_REQUESTS:
            del equal[next(iter(equal))]
        equal[key] = _Known(
            hit,
            int(status_line.split()[1]),
            status_line + b"\r\n",
            b"".join(b"%b\r\n" % line for line in kept),
            {name: scope[name] for name in _REPORTED if name in scope},
            first.again(),
        )

    def _key(self, connection: Any, headers: Sequence[Header]) -> tuple[Any, ...]:
        """Return all of a request that decides about its answer."""
        read = self._read
        sent = [header for header in headers if header[0] in read]
        # Some peers are believed. The port is that of the service, or that of the admin.
        is_forwarded = any(name == _FORWARDED for name, _ in sent)
        peer = connection.client if is_forwarded else None
        return (peer and peer[0], connection.server, connection.scheme, *sent)

    def _has_other_middleware(self) -> bool:
        is_outermost = isinstance(self._app.middleware_stack, Admin)
        return not is_outermost or self._app.user_middleware != self._middleware
