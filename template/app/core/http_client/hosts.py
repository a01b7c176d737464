"""Decisions about calls to one host: the circuit breaker, the retries and their waits."""

import asyncio
import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# Consecutive failures that open the circuit, and the time between trial calls while it is open.
FAILURES = 5
OPEN_S = 5.0
# Ten retries are free; then one retry for every ten attempts.
RETRY_BUDGET = 10.0
RETRY_SHARE = 0.1
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 2.0


class Host:
    """The state of one host in this process."""

    def __init__(self, max_in_flight: int) -> None:
        self.slots = asyncio.Semaphore(max_in_flight)
        self._failures = 0
        self._trial_at_s = 0.0
        self._retries = RETRY_BUDGET

    def admits(self, now_s: float) -> bool:
        """Return whether the circuit admits a call; an open one admits trial calls."""
        if self._failures < FAILURES:
            return True
        if now_s < self._trial_at_s:
            return False
        self._trial_at_s = now_s + OPEN_S
        return True

    def note(self, *, failed: bool, now_s: float) -> None:
        self._retries = min(RETRY_BUDGET, self._retries + RETRY_SHARE)
        self._failures = self._failures + 1 if failed else 0
        if self._failures >= FAILURES:
            self._trial_at_s = now_s + OPEN_S

    def may_retry(self) -> bool:
        """Take one retry from the budget."""
        if self._retries < 1:
            return False
        self._retries -= 1
        return True


def wait_before(attempt: int, retry_after: str = "") -> float:
    """Return the seconds before retry `attempt`, 1 or more: full jitter, or `Retry-After`."""
    longest_s = min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (attempt - 1))
    return max(_seconds(retry_after), random.uniform(0, longest_s))  # noqa: S311 - no secret


def _seconds(retry_after: str) -> float:
    """Return the seconds of either form of RFC 9110, 10.2.3; 0 if it has none."""
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except (ValueError, OverflowError):
        return 0.0
    return (moment.replace(tzinfo=moment.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
