"""Parts that fail or hang do not take the others with them."""

import asyncio

import pytest

from app.core.concurrency import Partial, missing_parts, partial_result
from app.core.http.problems import Unavailable


async def work(seconds: float, value: int) -> int:
    await asyncio.sleep(seconds)
    if value < 0:
        raise ValueError(value)
    return value


async def test_failures_and_time_outs_are_values() -> None:
    good, bad, slow = await asyncio.gather(
        partial_result("good", work(0, 1), timeout_s=1),
        partial_result("bad", work(0, -1), timeout_s=1),
        partial_result("slow", work(60, 2), timeout_s=0.01),
    )

    assert (good.value, good.error) == (1, None)
    assert bad.value is None
    assert isinstance(bad.error, ValueError)
    assert slow.value is None
    assert isinstance(slow.error, TimeoutError)


async def test_an_answer_needs_one_part_at_least() -> None:
    good, bad = Partial(1, None), Partial[int](None, ValueError())

    assert missing_parts(first=good, second=bad) == ["second"]
    with pytest.raises(Unavailable):
        missing_parts(first=bad, second=bad)


async def test_cancelling_reaches_the_work() -> None:
    task = asyncio.create_task(partial_result("slow", work(60, 1), timeout_s=60))
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
