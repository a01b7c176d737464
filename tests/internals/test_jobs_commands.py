"""`python -m app jobs`: failed jobs are listed, shown and run again, with clear errors."""

import asyncio
import json
import os
from collections.abc import Iterator
from uuid import UUID

import asyncpg
import pytest

from dev.processes import free_port
from tests.core.plugin import migrated_database
from tests.internals.commands import run

IDS = [str(UUID(int=number)) for number in range(3)]
ADD = """
INSERT INTO background_job (id, name, version, arguments, request_id, attempts, state, error)
VALUES ($1, 'app.orders.jobs.pay', 1, '{"order": 7}', 'the-id', 6, $2, $3)
"""


async def states(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    found = await connection.fetch("SELECT state FROM background_job ORDER BY id")
    await connection.close()
    return [row["state"] for row in found]


async def fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    for id, state in zip(IDS, ("dead", "dead", "waiting"), strict=True):
        await connection.execute(ADD, id, state, "Traceback\nLookupError: no order 7\n")
    await connection.close()


@pytest.fixture
def url() -> Iterator[str]:
    with migrated_database() as url:
        asyncio.run(fill(url))
        yield url


def test_failed_jobs_are_listed_shown_and_run_again(url: str) -> None:
    listed = run("jobs", "failed", DATABASE_URL=url)
    assert sorted(line.split()[0] for line in listed.stdout.splitlines()) == IDS[:2]
    assert "app.orders.jobs.pay  LookupError: no order 7" in listed.stdout
    assert "2 jobs failed." in listed.stderr

    shown = json.loads(run("jobs", "show", IDS[0], "--json", DATABASE_URL=url).stdout)
    assert shown["arguments"] == {"order": 7}
    assert (shown["request_id"], shown["attempts"], shown["state"]) == ("the-id", 6, "dead")
    assert shown["error"].startswith("Traceback")

    # The one that waits, and one that never was, are no failed jobs.
    unknown = str(UUID(int=9))
    again = run("jobs", "retry", IDS[0], IDS[2], unknown, DATABASE_URL=url)
    assert again.returncode == 1
    assert again.stdout == "1 jobs run again.\n"
    assert again.stderr == f"jobs: no failed job has the id {IDS[2]}, {unknown}.\n"
    assert asyncio.run(states(url)) == ["waiting", "dead", "waiting"]

    assert run("jobs", "retry", "all", DATABASE_URL=url).returncode == 0
    assert json.loads(run("jobs", "failed", "--json", DATABASE_URL=url).stdout) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "x"], "'x' is no id of a job; `python -m app jobs failed` lists them."),
        (["retry"], "use `failed`, `show ID`, `retry ID...` or `retry all`."),
        (["failed"], "The database cannot be reached."),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str) -> None:
    nowhere = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/postgres"
    process = run("jobs", *arguments, DATABASE_URL=nowhere)

    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == f"jobs: {message}\n"


def test_a_database_without_the_table_is_named() -> None:
    empty = os.environ["DATABASE_URL"].rpartition("/")[0] + "/postgres"
    process = run("jobs", "failed", DATABASE_URL=empty)

    assert "`python -m app migrate` makes the table" in process.stderr
