"""Overload: each worker limits the requests that it has at once, and refuses others at once.

The limit follows the queueing delay: the time that requests wait for a connection, or that the
event loop is late. Netflix's concurrency-limits (Gradient2, Vegas) compares the latencies of whole
requests with a baseline. A slow route then looks like a queue, and the baseline rises with the
overload itself. Both queues of this service are its own, so they are measured instead, as in CoDel
(RFC 8289) and in WeChat's DAGOR. The step down is that of Gradient2.

`Protocol` refuses most requests before they have a task; `Refusals` is for the rest.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from copy import copy
from itertools import count
from logging import getLogger
from time import monotonic
from typing import Any, Literal, Self, TypeVar

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.database.engine import gates
from app.core.http.cors import Cors
from app.core.http.problems import problem_response
from app.core.http.routing import Matcher, route_path
from app.core.http.serialization import lines
from app.core.operations.admin import is_admin
from app.core.settings.server import ServerSettings
from app.core.telemetry import request_id
from app.core.telemetry.requests import Header, in_flight

TICK_S = 0.1
# The lowest limit is the number of connections, and this number of requests that wait for one.
MIN_WAITING = 10
# The highest limit, for each connection: without a delay, most requests wait for something else.
MAX_PER_CONNECTION = 50
# A burst makes one tick late; two in a row are a queue that stays.
LATE_TICKS = 2
# One tick leaves at least this share of the limit.
LEAST_GRADIENT = 0.2
RETRY_AFTER_S = 1
# A refusal takes 11 us and two system calls. Above this rate, refused connections are read later.
FREE_REFUSALS_PER_S = 1000
# Refusals that come closer together than this are one burst.
BURST_S = 0.05

Priority = Literal["first", "normal", "never"]
F = TypeVar("F", bound=Callable[..., Any])
_ATTRIBUTE = "__shedding__"

logger = getLogger("app.overload")

# Requests that this process has refused, by priority.
refused: Counter[tuple[Priority]] = Counter()


def shed_first(function: F) -> F:
    """Declare that the requests of a route are refused at half of the limit: they can wait."""
    setattr(function, _ATTRIBUTE, "first")
    return function


def shed_never(function: F) -> F:
    """Declare that no request of a route is refused: its work is less than that of a refusal."""
    setattr(function, _ATTRIBUTE, "never")
    return function


class Limiter:
    """The limit of one worker, between `floor` and `ceiling`, and its refusals.

    `max_delay_s` is the queueing delay above which the limit falls; with 0, it stays.
    """

    def __init__(
        self,
        *,
        floor: int,
        ceiling: int,
        max_delay_s: float,
        admin_port: int = 0,
        cors: Cors | None = None,
    ) -> None:
        self.floor = min(floor, ceiling)
        self.ceiling = ceiling
        self._admin_port = admin_port
        self._cors = cors
        self._max_delay_s = max_delay_s
        self._late_ticks = 0
        self._priorities: Matcher[tuple[Any, Priority]] = Matcher(())
        self._refused_until_s = 0.0
        detail = "The service has too many requests; try again later."
        headers = {
            "Retry-After": str(RETRY_AFTER_S),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        self.response = problem_response(503, detail, headers=headers)
        self.head = b"HTTP/1.1 503 Service Unavailable\r\n" + lines(self.response.raw_headers)
        self._set(ceiling)

    @classmethod
    def of(cls, settings: ServerSettings, pool_size: int, cors: Cors | None = None) -> Self:
        """Return the limiter of a worker whose pool has so many connections."""
        return cls(
            floor=pool_size + MIN_WAITING,
            ceiling=settings.max_in_flight or pool_size * MAX_PER_CONNECTION,
            max_delay_s=settings.max_queue_ms / 1000,
            admin_port=settings.admin_port,
            cors=cors,
        )

    def read(self, app: FastAPI) -> None:
        """Read the priorities of the routes."""
        declared = []
        for context in iter_route_contexts(app.router.routes):
            if priority := getattr(context.endpoint, _ATTRIBUTE, None):
                regex, template, convertors = compile_path(context.path or "")
                declared.append((template, convertors, (regex, priority)))
        self._priorities = Matcher(declared)

    def _set(self, limit: float) -> None:
        self.limit = int(limit)
        # With fewer requests than this, none is refused.
        self.lowest = (self.limit + 1) // 2

    def is_admin(self, server: tuple[str, int | None] | None) -> bool:
        """Return whether a connection to this address is for operators, and never refused."""
        return is_admin({"server": server}, self._admin_port)

    def adapt(self, delay_s: float, in_flight: int) -> None:
        """Set the limit after a tick with this queueing delay."""
        if not self._max_delay_s:
            return
        # So few requests are not the cause of a delay.
        if delay_s <= self._max_delay_s or in_flight <= self.floor:
            self._late_ticks = 0
            self._set(min(self.ceiling, self.limit * 1.1 + 1))
            return
        self._late_ticks += 1
        if self._late_ticks >= LATE_TICKS:
            gradient = max(LEAST_GRADIENT, self._max_delay_s / delay_s)
            self._set(max(self.floor, min(self.limit, in_flight) * gradient))

    def refuses(self, path: str, in_flight: int) -> bool:
        """Decide about a request, by its path below the application's root; count a refusal."""
        if in_flight < self.lowest:
            return False
        priority: Priority = "normal"
        for regex, declared in self._priorities.candidates(path):
            if regex.match(path):
                priority = declared
                break
        if priority == "never" or (priority == "normal" and in_flight < self.limit):
            return False
        refused[priority,] += 1
        return True

    def own_headers(self, sent: Collection[Header]) -> list[Header]:
        """Return the headers of one refusal: its id, and CORS."""
        own = [(request_id.HEADER, request_id.of(sent).encode())]
        return own if self._cors is None else own + self._cors.headers(sent)

    def pause_s(self) -> float:
        """Return the seconds for which the connection of a refused request is not read."""
        now_s = monotonic()
        self._refused_until_s = max(self._refused_until_s, now_s) + 1 / FREE_REFUSALS_PER_S
        wait_s = self._refused_until_s - now_s
        return min(wait_s, RETRY_AFTER_S) if wait_s > BURST_S else 0

    @asynccontextmanager
    async def adapting(self) -> AsyncIterator[None]:
        """Adapt the limit until the block ends."""
        task = asyncio.create_task(self._adapt())
        try:
            yield
        finally:
            task.cancel()

    async def _adapt(self) -> None:
        reported = refused.total()
        for tick in count(1):
            began_s = monotonic()
            await asyncio.sleep(TICK_S)
            late_s = monotonic() - began_s - TICK_S
            waits_s = [gate.longest_wait_s for gate in gates]
            self.adapt(max(late_s, *waits_s, 0), in_flight())
            if tick % 10 == 0 and (new := refused.total() - reported):
                reported += new
                logger.warning("Refused %d requests; the limit is %d", new, self.limit)


class Refusals:
    """ASGI middleware inside of that of the admin port: refuses requests above the limit."""

    def __init__(self, app: ASGIApp, *, limiter: Limiter) -> None:
        self._app = app
        self._limiter = limiter

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        limiter, now = self._limiter, in_flight()
        if (
            now < limiter.lowest
            or scope["type"] == "lifespan"
            or not limiter.refuses(route_path(scope), now)
        ):
            return self._app(scope, receive, send)
        response = copy(limiter.response)
        response.raw_headers = response.raw_headers + limiter.own_headers(scope["headers"])
        return response(scope, receive, send)
