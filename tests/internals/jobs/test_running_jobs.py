"""The fixture `running_jobs` runs jobs as production does, and shows their errors."""

import pytest
from sqlalchemy import func, select

from app.core.database import ReadSession, WriteSession
from app.core.http.problems import Unavailable
from app.core.jobs import Job, enqueue, job
from app.core.jobs.table import background_job
from tests.core.jobs import Jobs

runs: list[str] = []


@job
async def succeeds(name: str) -> None:
    runs.append(name)


@job(retries=2)
async def succeeds_at_last() -> None:
    runs.append("")
    if len(runs) < 3:
        raise ValueError


@job(retries=1)
async def fails() -> None:
    runs.append("")
    raise ValueError


@job(retries=0)
async def meets_an_outage() -> None:
    runs.append("")
    if len(runs) < 2:
        raise Unavailable("A dependency is down.")


@pytest.fixture(autouse=True)
def fresh() -> None:
    runs.clear()


async def test_jobs_without_a_key_get_none(database: None, running_jobs: Jobs) -> None:
    async with WriteSession() as session:
        await enqueue(session, succeeds, "a")
    await enqueue(None, succeeds, "b")
    await enqueue(None, succeeds.options(key="c"), "c")
    await enqueue(None, succeeds.options(key="c"), "again")
    await enqueue(None, succeeds.options(delay_s=60), "late")

    await running_jobs.done()

    assert sorted(runs) == ["a", "b", "c"]
    rows = await ReadSession().rows(select(background_job.c.key, background_job.c.state))
    assert sorted(map(tuple, rows), key=str) == [("c", "done"), (None, "waiting")]


async def test_a_job_of_a_rollback_is_not_awaited(database: None, running_jobs: Jobs) -> None:
    with pytest.raises(ValueError, match="rolled back"):
        async with WriteSession() as session:
            await enqueue(session, succeeds, "a")
            raise ValueError("rolled back")

    await running_jobs.done()

    assert runs == []


@pytest.mark.parametrize("each", [succeeds_at_last, meets_an_outage])
async def test_a_job_may_fail_before_it_succeeds(
    database: None, running_jobs: Jobs, each: Job[[]]
) -> None:
    await enqueue(None, each)

    await running_jobs.done()

    assert await ReadSession().scalar(select(func.count(background_job.c.id))) == 0


async def test_the_last_error_is_shown(database: None, running_jobs: Jobs) -> None:
    await enqueue(None, fails)

    with pytest.raises(pytest.fail.Exception, match=r"fails: Traceback[\s\S]*ValueError"):
        await running_jobs.done()

    assert len(runs) == 2
