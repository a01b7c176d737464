"""Decisions about a replica, without I/O: whether it is in use, and which server answers a read."""

from collections import deque
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError

from app.core.database.errors import driver_error
from app.core.http.problems import Busy, Unavailable

# SQLSTATE: serialization failure and deadlock, which on a replica are conflicts with the replayed
# log; a table and a column that do not exist, or not yet; a plan from before a migration.
_BEHIND = ("40001", "40P01", "42P01", "42703", "0A000")
# SQLSTATE: the statement was cancelled, or waited too long for a lock, by its own limits; or it is
# a write.
_OWN = ("57014", "55P03", "25006")


class Route(Enum):
    """The server that answers a read."""

    REPLICA = auto()
    PRIMARY = auto()
    # The primary, with limited concurrency, so that writes find connections.
    PRIMARY_SHARE = auto()


def route(*, in_use: bool, caught_up: bool, has_written: bool, fresh: bool) -> Route:
    """Return the server that answers a read.

    Args:
        in_use: the replica is up, and its lag is within the limit.
        caught_up: it has replayed the write of the client's token.
        has_written: this request has committed a write.
        fresh: a cache keeps the result and shares it.
    """
    if has_written:
        return Route.PRIMARY
    if in_use and caught_up and not fresh:
        return Route.REPLICA
    return Route.PRIMARY_SHARE


class Failure(Enum):
    """The cause of a read that failed on the replica."""

    # The replica cannot be reached, or refuses to serve.
    OUTAGE = auto()
    # The replica works, but cannot answer this read yet.
    BEHIND = auto()
    # No answer or no connection in time: slow statements, many reads, or a server that hangs.
    TIMEOUT = auto()
    # The read would fail, or wait, on any server.
    OWN = auto()


def failure_of(error: Unavailable | DBAPIError) -> Failure:
    """Return the cause of an error, by that of the driver behind it."""
    cause = driver_error(error)
    state = getattr(cause, "sqlstate", None) or ""
    if state in _BEHIND:
        return Failure.BEHIND
    if isinstance(error, Busy) or isinstance(cause, TimeoutError):
        return Failure.TIMEOUT
    return Failure.OWN if isinstance(error, DBAPIError) or state in _OWN else Failure.OUTAGE


def goes_on(failure: Failure, *, left_out: bool, seen_since: bool) -> bool:
    """Whether the primary may repeat a read that failed on the replica.

    Args:
        left_out: the replica is left out by now.
        seen_since: the replica has answered the monitor since the read began.
    """
    if failure is Failure.TIMEOUT:
        # If the replica answers the monitor, the statement or the load is too slow for any server.
        return left_out or not seen_since
    return failure is not Failure.OWN


class Lag:
    """The lag of a replica, by the clock of this process alone.

    The lag is the age of the oldest position of the primary that the replica has not replayed, at
    the time when the primary was last seen. So it does not grow while the primary writes nothing,
    nor while the primary is down.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._seen: deque[tuple[int, float]] = deque()
        self._last_s = 0.0

    def primary_is_at(self, position: int, now_s: float) -> None:
        """Note the position of the primary; positions older than the limit are dropped."""
        if self._seen and position < self._seen[-1][0]:
            self._seen.clear()  # Another server is primary now; the positions were of the old one.
        if not self._seen or position > self._seen[-1][0]:
            self._seen.append((position, now_s))
        # One position beyond the limit is enough.
        while len(self._seen) > 1 and now_s - self._seen[1][1] > self._limit_s:
            self._seen.popleft()
        self._last_s = now_s

    def seconds(self, replayed: int) -> float:
        """Return the lag of a replica that has replayed up to here; exact up to the limit."""
        for position, seen_s in self._seen:
            if position > replayed:
                return self._last_s - seen_s
        return 0.0


def problem_of(
    *, is_replica: bool, same_cluster: bool, lag_s: float, max_lag_s: float
) -> str | None:
    """Return why a replica that answers is left out, or None when it is in use."""
    if not same_cluster:
        return "it is not a copy of this database"
    if not is_replica:
        return "it does not follow the primary"
    if lag_s > max_lag_s:
        return f"it is more than {max_lag_s:g} s behind"
    return None
