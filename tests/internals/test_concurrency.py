"""Parts that fail or hang do not take the others with them, and none outlives its request."""

import asyncio
import logging

import pytest
from sqlalchemy import func, select

from app.core.concurrency import Part, gather, partial
from app.core.database import ReadSession
from app.core.database.engine import gates
from app.core.http.problems import Unavailable

ENDED: list[float] = []


async def work(seconds: float, value: int) -> int:
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0)
        ENDED.append(seconds)
    if value < 0:
        raise ValueError(value)
    return value


async def test_failures_and_time_outs_are_missing_logged_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = partial.failures.copy()
    good, bad = Part("good", work(0, 1)), Part("bad", work(0, -1))
    own, late = Part("own", work(60, 2), timeout_s=0.01), Part("late", work(61, 3))

    assert await gather(good, bad, own, late, timeout_s=0.1) == ["bad", "own", "late"]

    assert (good.value, bad.value, own.value, late.value) == (1, None, None, None)
    assert partial.failures - before == {("bad",): 1, ("own",): 1, ("late",): 1}
    assert [each.getMessage().split()[0] for each in caplog.records] == ["bad", "own", "late"]
    warning = (logging.WARNING, False)
    levels = [(each.levelno, bool(each.exc_info)) for each in caplog.records]
    assert levels == [(logging.ERROR, True), warning, warning]
    assert ", in work\n" in caplog.text, "the error of a program has its traceback"


async def test_an_answer_needs_one_part_at_least() -> None:
    with pytest.raises(Unavailable):
        await gather(Part("bad", work(0, -1)), timeout_s=1)
    assert await gather(timeout_s=1) == []


async def test_names_that_a_client_chooses_do_not_make_the_metric_grow() -> None:
    good = Part("good", work(0, 1))
    bad = [Part(f"user {number}", work(0, -1)) for number in range(partial.MAX_NAMES + 9)]

    assert len(await gather(good, *bad, timeout_s=5)) == len(bad)

    assert len(partial.failures) <= partial.MAX_NAMES + 1
    assert partial.failures[("other",)] >= 9


async def test_a_part_that_is_cancelled_by_its_own_work_is_missing() -> None:
    async def cancelled() -> None:
        raise asyncio.CancelledError

    good, bad = Part("good", work(0, 1)), Part("bad", cancelled())

    assert await gather(good, bad, timeout_s=1) == ["bad"]
    assert good.value == 1


async def test_a_cancelled_caller_leaves_nothing_running() -> None:
    ENDED.clear()
    before = asyncio.all_tasks()
    parts = [Part("slow", work(60, 1)), Part("slower", work(61, 1))]
    task = asyncio.create_task(gather(*parts, timeout_s=60))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert sorted(ENDED) == [60, 61]
    assert asyncio.all_tasks() == before


async def test_a_cancelled_part_gives_its_connection_back(app: object) -> None:
    sleep = select(func.pg_sleep(60))

    async def in_use(number: int) -> None:
        async with asyncio.timeout(10):
            while sum(gate.in_use for gate in gates) != number:
                await asyncio.sleep(0.01)

    parts = [Part(name, ReadSession().rows(sleep)) for name in ("one", "two")]
    task = asyncio.create_task(gather(*parts, timeout_s=60))
    await in_use(2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await in_use(0)
