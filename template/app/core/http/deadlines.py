"""The time limit of a request: REQUEST_TIMEOUT_S, or the `deadline` of its route.

The client may shorten it by `X-Request-Timeout: 2.5`, in seconds: a point in time would depend on
the clock of the client. Any other value is ignored.

The time that is left bounds the waits for connections, statements and calls to other services. It
never ends a statement that commits. The limit ends with the first byte of the response.
"""

from collections.abc import Callable, Iterable
from http import HTTPStatus
from math import inf
from typing import Any, ClassVar, TypeVar

from app.core.http.problems import Unavailable
from app.core.telemetry.activity import Activity, current

HEADER = b"x-request-timeout"
# A statement that a limit ends costs PostgreSQL a process, which cancels it: no client ends each of
# them.
LEAST_S = 0.1
# Timers may fire this much too early. Within this time the driver cannot cancel a statement, and
# would close its connection instead.
_EARLY_S = 0.01
# The attribute of an endpoint that has its time limit.
DECLARED = "__deadline_s__"

F = TypeVar("F", bound=Callable[..., Any])


class DeadlineExceeded(Unavailable):
    """There was no response within the time limit of the request."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    headers: ClassVar[dict[str, str]] = {}


def deadline(limit_s: float) -> Callable[[F], F]:
    """Declare the time limit of a route in seconds, in place of REQUEST_TIMEOUT_S.

        @router.get("/report")
        @deadline(60)
        async def report(...) -> Report: ...

    Raises:
        ValueError: when it is not above 0.
    """
    if not 0 < limit_s < inf:
        raise ValueError(f"deadline: expected a number of seconds above 0, not {limit_s}.")

    def declare(function: F) -> F:
        setattr(function, DECLARED, limit_s)
        return function

    return declare


def sent_s(headers: Iterable[tuple[bytes, bytes]]) -> float:
    """Return the time limit that the client sent; infinity if there is none that is valid."""
    value = dict(headers).get(HEADER)
    if value is None:
        return inf
    # No sign, no exponent, no "nan".
    number = value.strip(b" \t").replace(b".", b"", 1)
    is_valid = number.isdigit() and len(number) < 10 and number.strip(b"0")
    return max(LEAST_S, float(value)) if is_valid else inf


def remaining_s() -> float:
    """Return the time that is left for the response; infinity without a limit.

    Raises:
        DeadlineExceeded: when too little time is left to begin anything.
    """
    activity = current.get()
    left_s = inf if activity is None else activity.remaining_s()
    if left_s <= _EARLY_S and (error := exceeded()):
        raise error
    return left_s


def exceeded() -> DeadlineExceeded | None:
    """Return the error of a request that has no time left; None for all others."""
    activity = current.get()
    if activity is None or activity.remaining_s() > _EARLY_S:
        return None
    return DeadlineExceeded(f"There was no response within {activity.limit_s():g} s.")


def unlimited() -> None:
    """Remove the time limit of this task, which keeps the id of its request."""
    activity = current.get()
    if activity is not None:
        current.set(Activity(activity.request_id, activity.scope))
