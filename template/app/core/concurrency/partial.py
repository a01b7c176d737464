"""Parts of an answer that are read together: one that fails or hangs does not fail the others."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from logging import getLogger
from math import inf
from typing import Any, Generic, TypeVar

from app.core.http.problems import Unavailable

T = TypeVar("T")

# A bound on the series of the metric, for names that contain a value.
MAX_NAMES = 100

logger = getLogger(__name__)
# Parts that failed, by name.
failures: Counter[tuple[str]] = Counter()


class Part(Generic[T]):
    """The work of one part, and its `value`, which is None while the part is missing."""

    def __init__(self, name: str, work: Coroutine[Any, Any, T], *, timeout_s: float = inf) -> None:
        self.name = name
        self.value: T | None = None
        self.is_missing = True
        self._work = work
        self._timeout_s = timeout_s

    async def run(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(min(timeout_s, self._timeout_s)):
                self.value = await self._work
            self.is_missing = False
        except (Unavailable, TimeoutError) as error:
            logger.warning("%s is missing: %r", self.name, error)
        except Exception:
            logger.exception("%s is missing", self.name)


async def gather(*parts: Part[Any], timeout_s: float) -> list[str]:
    """Run the parts together; return the names of those that failed or took too long.

        orders = Part("orders", count_orders(session), timeout_s=0.5)
        customers = Part("customers", count_customers(session))
        missing = await gather(orders, customers, timeout_s=1)

    When `gather` returns, all parts have ended. If its caller is cancelled, it cancels the parts,
    and their connections return to the pool. Failures are counted by name, and logged: with a
    traceback, unless a dependency is unavailable or the time is over.

    Args:
        timeout_s: the longest time for all of them; a part may have less.

    Raises:
        Unavailable: when all parts are missing: an answer without any part is no success.
    """
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.run(timeout_s), name=part.name)
    missing = [part.name for part in parts if part.is_missing]
    for name in missing:
        is_bounded = len(failures) < MAX_NAMES or (name,) in failures
        failures[(name if is_bounded else "other",)] += 1
    if parts and len(missing) == len(parts):
        raise Unavailable("No part of the answer is available now.")
    return missing
