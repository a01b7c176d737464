"""Admission to a pool: a bounded number of calls runs, and a bounded number waits."""

import asyncio
from collections import Counter

from app.core.http.problems import Busy

# Calls that may wait for each slot.
WAITING = 4
# Calls that are `busy` or `waiting`, by pool and state, and those that were refused, by pool.
calls: Counter[tuple[str, str]] = Counter()
refusals: Counter[tuple[str]] = Counter()


class Slots:
    """Slots for calls, given out in the order of arrival."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._semaphore: asyncio.Semaphore | None = None
        self._size = self._waiting = 0

    def open(self, size: int) -> None:
        self._semaphore = asyncio.Semaphore(size)
        self._size = size

    def close(self) -> None:
        self._semaphore = None

    async def acquire(self, timeout_s: float) -> None:
        """Wait for a slot.

        Raises:
            RuntimeError: when the resources of this process are not open.
            Busy: when too many calls wait, or no slot is free in time.
        """
        if self._semaphore is None:
            raise RuntimeError("Calls in a pool need `async with lifecycle.resources(...)`.")
        if self._semaphore.locked() and self._waiting >= WAITING * self._size:
            refusals[(self._what,)] += 1
            raise Busy(f"Too many calls wait for a {self._what}.")
        self._waiting += 1
        calls[self._what, "waiting"] += 1
        try:
            async with asyncio.timeout(timeout_s):
                await self._semaphore.acquire()
        except TimeoutError:
            refusals[(self._what,)] += 1
            raise Busy(f"No {self._what} was free within {timeout_s:g} s.") from None
        finally:
            self._waiting -= 1
            calls[self._what, "waiting"] -= 1
        calls[self._what, "busy"] += 1

    def release(self) -> None:
        calls[self._what, "busy"] -= 1
        if self._semaphore is not None:
            self._semaphore.release()


def name_of(function: object) -> str:
    """Return the name of a function for messages."""
    return getattr(function, "__qualname__", repr(function))
