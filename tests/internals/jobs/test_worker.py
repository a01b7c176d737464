"""Workers of the jobs in PostgreSQL: nothing is lost, whatever dies, and each job runs once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from app.core.database import Database, WriteSession
from app.core.http.problems import Conflict, Unavailable
from app.core.jobs import enqueue, every, execution, job, periodic
from app.core.jobs.declaration import declared
from app.core.jobs.worker import Worker, running
from app.settings import get_settings
from dev.processes import free_port
from tests.internals.fault_proxy import FaultProxy, fault_proxy
from tests.internals.jobs.queue import make_due, rows, run, until

POLL_S = 0.02
seen: list[Any] = []
most = now_running = 0


@job
async def note(value: int) -> None:
    global most, now_running
    now_running += 1
    most = max(most, now_running)
    await asyncio.sleep(0.01)
    now_running -= 1
    seen.append(value)


@job
async def chain(number: int) -> None:
    seen.append(number)
    if number:
        async with WriteSession() as session:
            await enqueue(session, chain, number - 1)


@job
async def sleep() -> None:
    seen.append("began")
    await asyncio.sleep(60)


@pytest.fixture(autouse=True)
def _fresh(database: None) -> None:
    global most, now_running
    most = now_running = 0
    seen.clear()


def settings(**changes: Any) -> Any:
    return get_settings().model_copy(update=changes)


def is_seen(count: int) -> Any:
    async def check() -> bool:
        return len(seen) >= count

    return check


async def is_empty() -> bool:
    return await rows() == []


async def test_a_job_runs_if_its_session_commits() -> None:
    async with running(settings(), poll_s=POLL_S):
        with pytest.raises(Conflict):
            async with WriteSession() as session:
                await enqueue(session, note, 1)
                raise Conflict("No.")
        async with WriteSession() as session:
            await enqueue(session, note, 2)
            await asyncio.sleep(5 * POLL_S)
            assert seen == []
        await enqueue(None, note, 3)
        await until(is_seen(2))
        await until(is_empty)

    assert sorted(seen) == [2, 3]


async def test_a_delayed_job_runs_later() -> None:
    async with running(settings(), poll_s=POLL_S):
        await enqueue(None, note.options(delay_s=3600), 1)
        await asyncio.sleep(5 * POLL_S)
        assert seen == []
        await make_due()
        await until(is_seen(1))


async def test_jobs_of_jobs_run() -> None:
    async with running(settings(), poll_s=POLL_S):
        await enqueue(None, chain, 3)
        await until(is_seen(4))

    assert seen == [3, 2, 1, 0]


async def test_no_more_run_at_once_than_allowed() -> None:
    for number in range(12):
        await enqueue(None, note, number)
    async with running(settings(job_concurrency=3), poll_s=60):
        await until(is_seen(12))

    assert most == 3
    assert await rows() == []


async def test_a_job_whose_processes_ended_runs_alone() -> None:
    beside = []

    @job
    async def last() -> None:
        beside.append(now_running)
        await asyncio.sleep(5 * POLL_S)
        beside.append(now_running)
        seen.append("last")

    await enqueue(None, note, 1)
    await enqueue(None, last)
    await enqueue(None, last)
    await run("UPDATE background_job SET deliveries = 2 WHERE name LIKE '%last'")
    for number in range(2, 12):
        await enqueue(None, note, number)
    async with running(settings(job_concurrency=4), poll_s=POLL_S):
        await until(is_seen(13))
        await until(is_empty)

    assert len(seen) == 13
    assert beside == [0] * 4


async def test_two_workers_run_each_job_once() -> None:
    for number in range(60):
        await enqueue(None, note, number)
    async with running(settings(job_concurrency=4), poll_s=POLL_S):
        other = Worker(4, POLL_S)
        claiming = asyncio.create_task(other.claim())
        await until(is_empty)
        other.stop()
        await claiming

    assert sorted(seen) == list(range(60))


async def test_an_orderly_stop_releases_late_jobs(caplog: pytest.LogCaptureFixture) -> None:
    await enqueue(None, sleep)
    async with running(settings(job_drain_timeout_s=0.05), poll_s=POLL_S):
        await until(is_seen(1))

    (row,) = await rows()
    assert (row["state"], row["attempts"], row["deliveries"]) == ("waiting", 0, 0)
    assert "did not end in time" in caplog.text
    async with running(settings(job_drain_timeout_s=0), poll_s=POLL_S):
        await until(is_seen(2))


async def test_an_optional_job_is_logged_when_it_is_not_accepted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Database()
    nowhere.open(settings(database_url=address_at(free_port())), pool_size=1)
    monkeypatch.setattr("app.core.jobs.message.database", nowhere)
    await enqueue(None, note.options(optional=True), 1)
    with pytest.raises(Unavailable, match="cannot be reached"):
        await enqueue(None, note, 1)
    await nowhere.close()

    assert "note is not enqueued: The database cannot be reached" in caplog.text


def address_at(port: int) -> SecretStr:
    url = make_url(get_settings().database_url.get_secret_value()).set(port=port)
    return SecretStr(url.render_as_string(hide_password=False))


@asynccontextmanager
async def behind_proxy() -> AsyncIterator[FaultProxy]:
    """A worker whose queue is behind a proxy, with a job that it has run."""
    port = make_url(get_settings().database_url.get_secret_value()).port or 5432
    async with fault_proxy(port) as proxy:
        queue = Database()
        queue.open(settings(database_url=address_at(proxy.port)), pool_size=1)
        try:
            async with running(settings(), queue, poll_s=POLL_S):
                await enqueue(None, note, 0)
                await until(is_empty)
                yield proxy
        finally:
            await queue.close()


async def test_a_database_that_restarts_stops_no_worker() -> None:
    async with behind_proxy() as proxy:
        proxy.down = True
        proxy.cut()
        await enqueue(None, note, 1)
        await asyncio.sleep(0.2)
        assert seen == [0]
        proxy.down = False
        await until(is_empty, timeout_s=10)

    assert seen == [0, 1]


async def test_a_database_that_hangs_stops_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "STATEMENT_TIMEOUT_S", 0.3)
    async with behind_proxy() as proxy:
        proxy.silent = True
        await enqueue(None, note, 1)
        await asyncio.sleep(0.5)
        assert seen == [0]
        proxy.silent = False
        await until(is_empty, timeout_s=10)

    assert seen == [0, 1]


async def test_a_database_that_restarts_at_the_end_of_a_job_gets_its_outcome() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    @job
    async def wait() -> None:
        seen.append(1)
        started.set()
        await go.wait()

    async with behind_proxy() as proxy:
        await enqueue(None, wait)
        await started.wait()
        proxy.down = True
        proxy.cut()
        go.set()
        await asyncio.sleep(0.2)
        proxy.down = False
        await until(is_empty, timeout_s=10)

    assert seen == [0, 1]


async def test_a_periodic_job_is_enqueued_once_by_all_workers_and_restarts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(periodic, "declared", declared)

    async def are_two() -> bool:
        return len(await rows()) == 2

    @every(timedelta(days=1000))
    @job
    async def rarely() -> None:
        seen.append("ran")

    try:
        async with running(settings(), poll_s=POLL_S), AsyncExitStack() as workers:
            for _ in range(3):
                await workers.enter_async_context(periodic.running(tick_s=POLL_S))
            await until(is_seen(1))
            async with periodic.running(tick_s=POLL_S):
                await asyncio.sleep(5 * POLL_S)
        assert seen == ["ran"]
        # The key outlasts the interval.
        (row,) = await rows()
        assert row["due_at"] - row["created_at"] > timedelta(days=1999)

        # The next interval, while this one waits.
        await run("UPDATE background_job SET key = '@every other', state = 'waiting'")
        await run("UPDATE background_job SET due_at = now() + interval '1 h'")
        async with periodic.running(tick_s=POLL_S):
            await asyncio.sleep(5 * POLL_S)
            assert len(await rows()) == 1
            await run("UPDATE background_job SET state = 'done'")
            await until(are_two)
        async with running(settings(), poll_s=POLL_S):
            await until(is_seen(2))
    finally:
        del declared[rarely.name]
