"""Several things at once, where one that fails or hangs does not take the others with it."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from logging import getLogger
from typing import Any, Generic, TypeVar

T = TypeVar("T")

logger = getLogger(__name__)


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What became of one part: a value, or None with the error that it ended in."""

    value: T | None
    error: Exception | None


async def outcome(name: str, work: Coroutine[Any, Any, T], *, timeout_s: float) -> Outcome[T]:
    """The result of `work`, with an error or a time-out as a value; for use in `asyncio.gather`.

    `name` is for the log. A cancelled request still cancels `work`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return Outcome(await work, None)
    except Exception as error:
        logger.warning("%s failed: %r", name, error)
        return Outcome(None, error)
