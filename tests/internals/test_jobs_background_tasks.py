"""Jobs in the web process: bounded, logged when they fail, and waited for."""

import asyncio
from contextvars import Context

import pytest
from fastapi import FastAPI

from app.core.http.problems import Unavailable
from app.core.jobs import drain, enqueue, job
from app.core.jobs.background_tasks import runner
from app.core.telemetry import request_id
from app.settings import get_settings

running = 0
most = 0
done: list[int] = []


@job
async def work(number: int, *, seconds: float = 0.0) -> None:
    global running, most
    running += 1
    most = max(most, running)
    await asyncio.sleep(seconds)
    running -= 1
    if number < 0:
        raise ValueError("a job that fails")
    done.append(number)


@job
async def need(times: int) -> None:
    """Finds nothing available so many times."""
    global running
    running += 1
    if running <= times:
        raise Unavailable("All database connections are in use.")
    done.append(times)


@job
async def chain(number: int) -> None:
    done.append(number)
    if number:
        await enqueue(chain, number - 1)


@pytest.fixture(autouse=True)
def _fresh(app: FastAPI) -> None:
    global running, most
    running = most = 0
    done.clear()


@job
async def note() -> None:
    done.append(hash(request_id.current()))


async def test_a_job_has_the_id_of_its_request() -> None:
    context = Context()
    context.run(request_id.begin, "the-id")
    await asyncio.create_task(enqueue(note), context=context)
    await drain()

    assert done == [hash("the-id")]


async def test_enqueueing_does_not_wait_and_draining_does() -> None:
    await enqueue(work, 1, seconds=0.05)
    assert done == []

    await drain()
    assert done == [1]


async def test_no_more_run_at_once_than_allowed() -> None:
    limit = get_settings().job_concurrency
    for number in range(3 * limit):
        await enqueue(work, number, seconds=0.01)
    await drain()

    assert len(done) == 3 * limit
    assert most == limit


async def test_no_more_wait_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    small = get_settings().model_copy(update={"job_backlog": 2})
    monkeypatch.setattr(runner, "_settings", small)
    for number in range(small.job_concurrency + 2):
        await enqueue(work, number)

    with pytest.raises(Unavailable, match="work is not run"):
        await enqueue(work, 99)
    await drain()
    await enqueue(work, 100)
    await drain()

    assert sorted(done) == [*range(small.job_concurrency + 2), 100]


async def test_a_job_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    await enqueue(work, -1)
    await drain()

    assert "job work failed" in caplog.text
    assert "a job that fails" in caplog.text


async def test_a_function_that_is_no_job_is_refused() -> None:
    async def forgotten() -> None: ...

    with pytest.raises(TypeError, match="not declared with @job"):
        await enqueue(forgotten)


async def test_a_job_waits_for_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.core.jobs.background_tasks.RETRY_AFTER_S", 0.01)
    await enqueue(need, 2)
    await drain()

    assert done == [2]


async def test_jobs_of_jobs_are_waited_for() -> None:
    await enqueue(chain, 3)
    await drain()

    assert done == [3, 2, 1, 0]


async def test_a_job_that_outlasts_the_drain_is_cancelled(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hasty = get_settings().model_copy(update={"job_drain_timeout_s": 0.05})
    monkeypatch.setattr(runner, "_settings", hasty)
    request_id.begin("9f2c")
    await enqueue(work, 1, seconds=60)
    await drain()

    assert done == []
    assert "did not end in time: work 9f2c" in caplog.text
