"""What is decided about a replica, without I/O: whether it is in use, and who answers a read."""

from collections import deque
from enum import Enum, auto

from sqlalchemy.exc import DBAPIError

from app.core.http.problems import Busy, Unavailable

# SQLSTATE: serialization failure and deadlock, which on a replica are conflicts with what it has to
# replay; a table and a column that do not exist, or not yet.
_BEHIND = ("40001", "40P01", "42P01", "42703")
# A statement was cancelled, and had to wait for a lock too long: by limits of its own.
_OWN = ("57014", "55P03")


class Route(Enum):
    """Who answers a read."""

    REPLICA = auto()
    PRIMARY = auto()
    # The primary, but only so many at once that writes still get in.
    PRIMARY_SHARE = auto()


def route(*, in_use: bool, caught_up: bool, has_written: bool, fresh: bool) -> Route:
    """Who answers a read.

    Args:
        in_use: the replica is up, and not behind by more than the limit.
        caught_up: it has replayed what the client's token names.
        has_written: this request has committed something.
        fresh: the result is kept, and shown to others.
    """
    if has_written:
        return Route.PRIMARY
    if in_use and caught_up and not fresh:
        return Route.REPLICA
    return Route.PRIMARY_SHARE


class Failure(Enum):
    """What a read that failed on the replica says about it."""

    # It cannot be reached, or does not take part now.
    OUTAGE = auto()
    # It is well, but this read cannot be had from it.
    BEHIND = auto()
    # No answer or no connection in time: slow statements, many reads, or a server that hangs.
    TIMEOUT = auto()
    # The read would fail, or wait, anywhere.
    OWN = auto()


def failure_of(error: Unavailable | DBAPIError) -> Failure:
    """What an error means; an `Unavailable` has what it was translated from as its cause."""
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    # SQLAlchemy wraps the driver's error, but not when it connects.
    state = getattr(getattr(cause, "orig", cause), "sqlstate", None) or ""
    if state in _BEHIND:
        return Failure.BEHIND
    if isinstance(error, Busy) or isinstance(cause, TimeoutError):
        return Failure.TIMEOUT
    return Failure.OWN if cause is error or state in _OWN else Failure.OUTAGE


def goes_on(failure: Failure, *, left_out: bool, seen_since: bool) -> bool:
    """Whether the primary may answer what the replica did not.

    Args:
        left_out: the replica is, by now.
        seen_since: it has answered the monitor since the read began.
    """
    if failure is Failure.TIMEOUT:
        # A replica that is well was not hanging: it is the statement, or the load.
        return left_out or not seen_since
    return failure is not Failure.OWN


class Lag:
    """How far a replica is behind, by the clock of this process alone.

    The primary's positions are noted with the time at which they were seen. The replica is behind
    by the age of the oldest that it has not replayed, counted up to when the primary was last seen:
    so there is no lag while the primary writes nothing, and none is made up while it is down.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._seen: deque[tuple[int, float]] = deque()
        self._last_s = 0.0

    def primary_is_at(self, position: int, now_s: float) -> None:
        """Note the primary's position; memory is bounded by the limit."""
        if self._seen and position < self._seen[-1][0]:
            self._seen.clear()  # It is another server now, and knows nothing of these positions.
        if not self._seen or position > self._seen[-1][0]:
            self._seen.append((position, now_s))
        # Of those that are too old, the newest tells as much as all of them.
        while len(self._seen) > 1 and now_s - self._seen[1][1] > self._limit_s:
            self._seen.popleft()
        self._last_s = now_s

    def seconds(self, replayed: int) -> float:
        """How far behind a replica is that has replayed so much; exact up to the limit."""
        for position, seen_s in self._seen:
            if position > replayed:
                return self._last_s - seen_s
        return 0.0


def problem_of(
    *, is_replica: bool, same_cluster: bool, lag_s: float, max_lag_s: float
) -> str | None:
    """Why a replica that answers is left out; None when it is in use."""
    if not same_cluster:
        return "it is no copy of this database"
    if not is_replica:
        return "it does not follow the primary"
    if lag_s > max_lag_s:
        return f"it is more than {max_lag_s:g} s behind"
    return None
