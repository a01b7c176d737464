"""What is decided about a replica, by tables."""

from itertools import product

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from app.core.database.replica.consistency import format_lsn, parse_lsn
from app.core.database.replica.decisions import (
    Failure,
    Lag,
    Route,
    failure_of,
    goes_on,
    problem_of,
    route,
)
from app.core.http.problems import Busy, Unavailable

# in_use, caught_up, has_written, fresh
ROUTES = {
    (True, True, False, False): Route.REPLICA,
    (True, True, False, True): Route.PRIMARY_SHARE,
    (True, False, False, False): Route.PRIMARY_SHARE,
    (True, False, False, True): Route.PRIMARY_SHARE,
    (False, True, False, False): Route.PRIMARY_SHARE,
    (False, True, False, True): Route.PRIMARY_SHARE,
    (False, False, False, False): Route.PRIMARY_SHARE,
    (False, False, False, True): Route.PRIMARY_SHARE,
    # Whoever has written is a writer for the rest of the request, and no part of the share.
    **{
        (in_use, caught_up, True, fresh): Route.PRIMARY
        for in_use, caught_up, fresh in product((True, False), repeat=3)
    },
}


@pytest.mark.parametrize(("facts", "expected"), ROUTES.items())
def test_route(facts: tuple[bool, bool, bool, bool], expected: Route) -> None:
    in_use, caught_up, has_written, fresh = facts

    assert (
        route(in_use=in_use, caught_up=caught_up, has_written=has_written, fresh=fresh) is expected
    )
    assert len(ROUTES) == 16


@pytest.mark.parametrize(
    ("is_replica", "same_cluster", "lag_s", "expected"),
    [
        (True, True, 0.0, None),
        (True, True, 5.0, None),
        (True, True, 5.1, "it is more than 5 s behind"),
        (False, True, 0.0, "it does not follow the primary"),
        (True, False, 0.0, "it is not a copy of this database"),
    ],
)
def test_problem(is_replica: bool, same_cluster: bool, lag_s: float, expected: str | None) -> None:
    problem = problem_of(is_replica=is_replica, same_cluster=same_cluster, lag_s=lag_s, max_lag_s=5)

    assert problem == expected


# The primary's positions by the second at which each is seen, what is replayed, and the lag.
LAGS: list[tuple[list[tuple[int, float]], int, float]] = [
    ([], 0, 0.0),
    ([(10, 0)], 0, 0.0),
    ([(10, 0), (20, 1)], 20, 0.0),
    ([(10, 0), (20, 1)], 10, 0.0),
    ([(10, 0), (20, 1), (30, 2)], 10, 1.0),
    ([(10, 0), (20, 1), (30, 2)], 9, 2.0),
    ([(10, 0), (20, 1), (30, 2)], 15, 1.0),
    # Nothing is written: what is replayed is all there is, or is not.
    ([(10, 0), (10, 1), (10, 60)], 10, 0.0),
    ([(10, 0), (10, 1), (10, 3)], 9, 3.0),
    # Another primary, whose log is shorter.
    ([(10, 0), (20, 1), (5, 2)], 5, 0.0),
    ([(10, 0), (20, 1), (5, 2), (6, 3), (7, 4)], 5, 1.0),
]


@pytest.mark.parametrize(("seen", "replayed", "expected"), LAGS)
def test_lag(seen: list[tuple[int, float]], replayed: int, expected: float) -> None:
    lag = Lag(limit_s=5)
    for position, second in seen:
        lag.primary_is_at(position, second)

    assert lag.seconds(replayed) == expected


def test_a_replica_that_was_away_for_long_costs_no_memory_and_comes_back_in_time() -> None:
    lag = Lag(limit_s=5)
    for second in range(100_000):
        lag.primary_is_at(second, float(second))

    assert lag.seconds(0) > 5
    assert lag.seconds(99_992) > 5
    assert [lag.seconds(99_999 - behind) for behind in range(6)] == [0, 0, 1, 2, 3, 4]
    assert len(lag._seen) < 10


@pytest.mark.parametrize(
    ("text", "position"),
    [
        (b"0/0", 0),
        (b"0/3000148", 0x3000148),
        (b"00000000/03000148", 0x3000148),
        (b"1/0", 1 << 32),
        (b"ffffFFFF/FFFFffff", 2**64 - 1),
    ],
)
def test_positions_are_read_and_written_as_postgresql_does(text: bytes, position: int) -> None:
    assert parse_lsn(text) == position
    assert parse_lsn(format_lsn(position).encode()) == position


def test_the_greater_text_is_the_later_position() -> None:
    positions = [0, 9, 10, 0xFFFFFFFF, 1 << 32, 10 << 32, 2**64 - 1]

    texts = [format_lsn(position) for position in positions]

    assert texts == sorted(texts)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"0", b"/", b"0/", b"/0", b"0/g", b"0/0 ", b"0/0\n", b"-1/0", b"0x1/0", b"0/0/0"),
        *(b"000000000/0", b"0/000000000", b"0/0, 0/1", b"\xd9\xa1/0", b"1_0/0"),
    ],
)
def test_what_is_no_position_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match="expected the value of an earlier response"):
        parse_lsn(text)


def of_driver(name: str) -> Exception:
    error: Exception = getattr(asyncpg, name)("x")
    return error


def of_engine(name: str, *, disconnected: bool = False) -> DBAPIError:
    original = Exception("x")
    original.sqlstate = getattr(asyncpg, name).sqlstate  # type: ignore[attr-defined]
    return DBAPIError("SELECT", None, original, connection_invalidated=disconnected)


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (ConnectionRefusedError(), Failure.OUTAGE),
        (of_driver("CannotConnectNowError"), Failure.OUTAGE),
        (of_driver("TooManyConnectionsError"), Failure.OUTAGE),
        (of_driver("InvalidPasswordError"), Failure.OUTAGE),
        (of_driver("InterfaceError"), Failure.OUTAGE),
        (of_engine("AdminShutdownError", disconnected=True), Failure.OUTAGE),
        (of_engine("CrashShutdownError", disconnected=True), Failure.OUTAGE),
        (of_engine("ConnectionDoesNotExistError", disconnected=True), Failure.OUTAGE),
        (of_engine("SerializationError"), Failure.BEHIND),
        (of_engine("SerializationError", disconnected=True), Failure.BEHIND),
        (of_engine("DeadlockDetectedError"), Failure.BEHIND),
        (of_engine("QueryCanceledError"), Failure.OWN),
        (of_engine("LockNotAvailableError"), Failure.OWN),
        (TimeoutError(), Failure.TIMEOUT),
    ],
)
def test_what_became_unavailable(cause: Exception, expected: Failure) -> None:
    error = Unavailable("x")
    error.__cause__ = cause

    assert failure_of(error) is expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Busy("x"), Failure.TIMEOUT),
        (of_engine("UndefinedTableError"), Failure.BEHIND),
        (of_engine("UndefinedColumnError"), Failure.BEHIND),
        (of_engine("DivisionByZeroError"), Failure.OWN),
        (of_engine("ReadOnlySQLTransactionError"), Failure.OWN),
    ],
)
def test_what_else_fails(error: Unavailable | DBAPIError, expected: Failure) -> None:
    assert failure_of(error) is expected


@pytest.mark.parametrize(
    ("failure", "left_out", "seen_since", "expected"),
    [
        *((Failure.OUTAGE, *facts, True) for facts in product((True, False), repeat=2)),
        *((Failure.BEHIND, *facts, True) for facts in product((True, False), repeat=2)),
        *((Failure.OWN, *facts, False) for facts in product((True, False), repeat=2)),
        (Failure.TIMEOUT, False, True, False),
        (Failure.TIMEOUT, False, False, True),
        (Failure.TIMEOUT, True, True, True),
        (Failure.TIMEOUT, True, False, True),
    ],
)
def test_goes_on(failure: Failure, left_out: bool, seen_since: bool, expected: bool) -> None:
    assert goes_on(failure, left_out=left_out, seen_since=seen_since) is expected
