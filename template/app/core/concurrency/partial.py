"""Partial results: a task that fails or hangs does not fail the tasks beside it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Generic, TypeVar

from app.core.http.problems import Unavailable

T = TypeVar("T")

logger = getLogger(__name__)


@dataclass(frozen=True)
class Partial(Generic[T]):
    """The result of one task: a value, or None and the error that ended the task."""

    value: T | None
    error: Exception | None


async def partial_result(
    name: str, work: Coroutine[Any, Any, T], *, timeout_s: float
) -> Partial[T]:
    """Run `work`; an error or a timeout becomes part of the result. For use in `asyncio.gather`:

        orders, customers = await asyncio.gather(
            partial_result("orders", count_orders(session), timeout_s=1.0),
            partial_result("customers", count_customers(session), timeout_s=1.0),
        )

    Errors are logged with `name`. Cancelling the caller cancels `work` as well.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return Partial(await work, None)
    except Exception as error:
        logger.warning("%s failed: %r", name, error)
        return Partial(None, error)


def missing_parts(**results: Partial[Any]) -> list[str]:
    """Return the names of the results that are errors.

    Raises:
        Unavailable: when all of them are: an answer without any part is no success.
    """
    missing = [name for name, result in results.items() if result.error]
    if len(missing) == len(results):
        raise Unavailable("No part of the answer is available now.")
    return missing
