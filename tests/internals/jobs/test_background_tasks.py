"""Jobs in the web process: bounded, drained, and stored when they fail or are late."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest

from app.core.database import WriteSession
from app.core.http.problems import Conflict, Unavailable
from app.core.jobs import background_tasks, drain, enqueue, every, job, periodic
from app.core.jobs.declaration import declared
from app.core.telemetry import request_id
from app.settings import get_settings
from tests.internals.jobs.queue import make_due, rows, states, until

seen: list[Any] = []
running = most = 0


@job
async def work(number: int, *, seconds: float = 0.0) -> None:
    global running, most
    running += 1
    most = max(most, running)
    try:
        await asyncio.sleep(seconds)
    finally:
        running -= 1
    seen.append(number)


@job(retries=1)
async def fail(number: int) -> None:
    seen.append(number)
    raise LookupError(f"nothing for {number}")


@job
async def chain(number: int) -> None:
    seen.append(number)
    if number:
        await enqueue(None, chain, number - 1)


@job
async def note() -> None:
    seen.append(request_id.current())


@pytest.fixture(autouse=True)
def _fresh(database: None) -> None:
    global running, most
    running = most = 0
    seen.clear()


@asynccontextmanager
async def process(**changes: Any) -> AsyncIterator[background_tasks.Runner]:
    """Run jobs as one more process of the service, with other settings."""
    other = background_tasks.Runner()
    changed = get_settings().model_copy(update=changes)
    with patch.object(background_tasks, "POLL_S", 0.02):
        async with other.opened(changed):
            with patch("app.core.jobs.engine.accept", other.accept):
                yield other


async def test_a_job_has_the_id_of_its_request() -> None:
    context = Context()
    context.run(request_id.begin, "the-id")
    await asyncio.create_task(enqueue(None, note), context=context)
    await drain()

    assert seen == ["the-id"]


async def test_enqueueing_does_not_wait_and_draining_does() -> None:
    await enqueue(None, work, 1, seconds=0.05)
    assert seen == []

    await drain()
    assert seen == [1]


async def test_a_job_runs_if_its_session_commits() -> None:
    async with WriteSession() as session:
        await enqueue(session, work, 1)
        await drain()
        assert seen == []
    await drain()
    with pytest.raises(Conflict):
        async with WriteSession() as session:
            await enqueue(session, work, 2)
            raise Conflict("No.")
    await drain()

    assert seen == [1]
    assert await rows() == []


async def test_no_more_run_at_once_than_allowed() -> None:
    limit = get_settings().job_concurrency
    for number in range(3 * limit):
        await enqueue(None, work, number, seconds=0.01)
    await drain()

    assert len(seen) == 3 * limit
    assert most == limit


async def test_no_more_wait_than_allowed() -> None:
    async with process(job_concurrency=2, job_backlog=2):
        for number in range(4):
            await enqueue(None, work, number)
        for session in (None, WriteSession()):
            with pytest.raises(Unavailable, match="work is not run: too many jobs wait"):
                await enqueue(session, work, 99)
        await enqueue(None, work.options(optional=True), 98)
        async with WriteSession() as session:
            await enqueue(session, work.options(optional=True), 97)

    assert sorted(seen) == [0, 1, 2, 3]


async def test_jobs_of_jobs_are_waited_for() -> None:
    await enqueue(None, chain, 3)
    await drain()

    assert seen == [3, 2, 1, 0]


async def test_a_job_that_fails_is_retried_and_a_dead_letter_at_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with process():
        await enqueue(None, fail, 1)

        async def is_stored() -> bool:
            return await states() == ["waiting"]

        await until(is_stored)
        assert (await rows())[0]["attempts"] == 1
        await make_due()

        async def is_dead() -> bool:
            return await states() == ["dead"]

        await until(is_dead)

    assert seen == [1, 1]
    assert "LookupError: nothing for 1" in (await rows())[0]["error"]
    assert "fail failed" in caplog.text


async def test_a_job_with_a_key_runs_once() -> None:
    async with process():
        for _ in range(3):
            await enqueue(None, work.options(key="a"), 1)

        async def is_done() -> bool:
            return await states() == ["done"]

        await until(is_done)

    assert seen == [1]


async def test_jobs_that_are_left_at_a_stop_run_in_another_process() -> None:
    async with process(job_concurrency=1, job_drain_timeout_s=0.05):
        await enqueue(None, work, 1, seconds=60)
        await enqueue(None, work, 2)
        await asyncio.sleep(0)
    assert seen == []
    assert [(row["state"], row["attempts"]) for row in await rows()] == [("waiting", 0)] * 2

    # The process of the test claims them.
    async with process(job_drain_timeout_s=0):

        async def is_run() -> bool:
            return seen == [2]

        await until(is_run)


async def test_periodic_jobs_run_by_themselves_in_a_service_and_not_in_its_tests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @every(timedelta(days=1000))
    @job
    async def rarely() -> None:
        seen.append("ran")

    async def is_run() -> bool:
        return seen == ["ran"]

    try:
        await periodic._enqueue({})
        assert await rows() == []
        monkeypatch.setattr(periodic, "declared", declared)
        async with process():
            await until(is_run)
    finally:
        del declared[rarely.name]


async def test_the_next_start_says_how_many_jobs_a_kill_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with patch.object(background_tasks, "take_lost", lambda _: 7):
        async with process():
            pass
    with patch.object(background_tasks, "take_lost", side_effect=PermissionError("read-only")):
        async with process():
            await enqueue(None, work, 1)

    assert "Processes that were killed lost 7 jobs." in caplog.text
    assert "Jobs that a kill loses are not counted: read-only" in caplog.text
    assert seen == [1]
