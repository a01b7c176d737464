"""Threads for libraries that block: bounded, and the wait for them has a deadline."""

import asyncio
import gc
import time
from contextvars import ContextVar
from threading import Event, current_thread, main_thread

import pytest

from app.core.concurrency import slots as slots_module
from app.core.concurrency import threads
from app.core.concurrency.slots import Slots
from app.core.concurrency.threads import run_in_thread
from app.core.http.problems import Busy

value = ContextVar("value", default=0)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Event:
    """Allow one thread and one call that waits; the event ends `wait`."""
    slots = Slots("thread")
    slots.open(1)
    monkeypatch.setattr(slots_module, "WAITING", 1)
    monkeypatch.setattr(threads, "thread_slots", slots)
    return Event()


@pytest.mark.usefixtures("ended")
async def test_a_call_has_a_thread_and_the_context_of_its_task() -> None:
    def called(number: int) -> tuple[int, bool]:
        time.sleep(0.01)
        return number + value.get(), current_thread() is main_thread()

    value.set(2)

    assert await run_in_thread(called, 3) == (5, False)
    with pytest.raises(ZeroDivisionError):
        await run_in_thread(divmod, 1, 0)
    # An error of the library, and not the deadline.
    with pytest.raises(TimeoutError, match="the reason"):
        await run_in_thread(raise_, TimeoutError("the reason"))


def raise_(error: Exception) -> None:
    raise error


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_thread_that_goes_on_keeps_its_place(ended: Event, is_cancelled: bool) -> None:
    try:
        if is_cancelled:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await run_in_thread(ended.wait)
        else:
            late = r"wait did not end within 0\.05 s; its thread goes on\."
            with pytest.raises(TimeoutError, match=late):
                await run_in_thread(ended.wait, deadline_s=0.05)
        with pytest.raises(Busy, match=r"No thread was free within 0\.05 s\."):
            await run_in_thread(abs, -5, deadline_s=0.05)
    finally:
        ended.set()

    assert await run_in_thread(abs, -5) == 5


async def test_the_wait_for_a_thread_is_within_the_deadline(
    ended: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[float] = []
    wait = asyncio.wait

    async def noted(tasks: set[asyncio.Future[object]], timeout: float) -> object:  # noqa: ASYNC109
        limits.append(timeout)
        return await wait(tasks)

    first = asyncio.create_task(run_in_thread(time.sleep, 0.2))
    await asyncio.sleep(0)
    monkeypatch.setattr(asyncio, "wait", noted)
    assert await run_in_thread(abs, -5, deadline_s=10) == 5
    await first

    assert limits[0] < 9.9


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_a_late_error_is_logged_with_the_name_of_its_function(
    ended: Event, is_cancelled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_late() -> None:
        ended.wait(10)
        raise ZeroDivisionError

    call = asyncio.create_task(run_in_thread(fail_late, deadline_s=60 if is_cancelled else 0.05))
    if is_cancelled:
        await asyncio.sleep(0.05)
        call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    ended.set()
    # It waits for the place of the late call.
    assert await run_in_thread(abs, -5) == 5
    del call
    gc.collect()

    # Other loggers may tell of tests before this one.
    (line,) = (each for each in caplog.records if each.name == threads.__name__)
    assert "fail_late failed after its caller went on" in line.getMessage()
    assert "ZeroDivisionError" in caplog.text
    assert "never retrieved" not in caplog.text


async def test_a_full_queue_is_refused(ended: Event) -> None:
    running = asyncio.create_task(run_in_thread(ended.wait))
    waiting = asyncio.create_task(run_in_thread(abs, -5))
    await asyncio.sleep(0)
    try:
        with pytest.raises(Busy, match=r"Too many calls wait for a thread\."):
            await run_in_thread(abs, -5)
    finally:
        ended.set()

    assert [*await asyncio.gather(running, waiting)] == [True, 5]
