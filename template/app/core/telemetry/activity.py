"""The account of the current request, job or load of the cache: one object in one variable."""

from collections.abc import MutableMapping
from contextvars import ContextVar
from math import inf
from time import perf_counter
from typing import Any

# The longest path in a log line.
MAX_PATH_CHARS = 256


class Activity:
    """What one request, job or load does; it adds to the account of the `outer` one as well.

    Attributes:
        request_id: empty in a load of the cache, because other requests share its result.
        scope: the request, for log lines; None outside of a request.
        queries: the number of statements that were sent.
        pool_wait_s: the time that tasks waited for connections.
        cache: how the response cache answered: hit, stale, miss, collapsed, error or bypass; empty
            for other routes.
        began_s: the time of `perf_counter` from which the time limit counts.
        ends_s: the time of its end; None until it is known.
    """

    queries = 0
    pool_wait_s = 0.0
    cache = ""
    began_s = 0.0
    ends_s: float | None = None

    def __init__(self, request_id: str = "", scope: MutableMapping[str, Any] | None = None) -> None:
        self.outer = current.get()
        self.request_id = request_id
        self.scope = scope

    def sent(self, _sql: str) -> None:
        self.queries += 1

    def limit_s(self, *, of_client: bool = True) -> float:
        """Return the time limit; `of_client` says whether the client may have shortened it."""
        return inf

    def remaining_s(self) -> float:
        """Return the time until the limit, which may be negative."""
        return self.began_s + self.limit_s() - perf_counter()

    @property
    def route(self) -> str:
        """The template of the route, or `unmatched`: a label, of which there are few."""
        scope = self.scope or {}
        context = scope.get("fastapi", {}).get("effective_route_context")
        # The context of a WebSocket has an empty path.
        return getattr(context, "path", "") or getattr(scope.get("route"), "path", "unmatched")


class Load(Activity):
    """A load of the cache: its limit is that of the route while the caller has no response."""

    def __init__(self) -> None:
        super().__init__()
        self.began_s = perf_counter()

    def limit_s(self, *, of_client: bool = True) -> float:
        """Return the time limit without that of the client, because other clients wait, too."""
        return inf if self.outer is None else self.outer.limit_s(of_client=False)


# Each request has an account of its own; tasks that it starts inherit it.
current: ContextVar[Activity | None] = ContextVar("activity", default=None)


def add_statement(sql: str) -> None:
    """Count a statement that is about to be sent."""
    activity = current.get()
    while activity is not None:
        activity.sent(sql)
        activity = activity.outer


def add_pool_wait(duration_s: float) -> None:
    """Add the time of a wait for a connection."""
    activity = current.get()
    while activity is not None:
        activity.pool_wait_s += duration_s
        activity = activity.outer


def set_cache_result(result: str) -> None:
    """Note the result of the response cache."""
    activity = current.get()
    if activity is not None:
        activity.cache = result


def note_body() -> None:
    """Let the time limit count from now on, when the client has sent the whole request."""
    activity = current.get()
    if activity is not None:
        activity.began_s, activity.ends_s = perf_counter(), None


def log_fields() -> dict[str, str]:
    """Return the fields of log lines that belong to a request or to its job; empty elsewhere.

    A load of the cache has the fields of the request that began it.
    """
    activity = current.get()
    while activity is not None and not activity.request_id:
        activity = activity.outer
    if activity is None:
        return {}
    fields = {"request_id": activity.request_id}
    if (scope := activity.scope) is not None:
        fields["method"] = scope.get("method", scope["type"])
        fields["route"] = activity.route
        fields["path"] = scope["path"][:MAX_PATH_CHARS]
    return fields
