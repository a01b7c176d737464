"""`python -m app jobs`: failed jobs are listed, shown and run again, with clear errors."""

import asyncio
import json
from uuid import UUID

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from app.core.jobs import commands
from app.settings import get_settings
from dev.processes import free_port
from tests.internals.commands import run as run_command
from tests.internals.jobs.queue import rows, run, states

IDS = [str(UUID(int=number)) for number in range(3)]
UNKNOWN = str(UUID(int=9))


@pytest.fixture(autouse=True)
async def _rows(database: None) -> None:
    for id, state in zip(IDS, ("dead", "dead", "waiting"), strict=True):
        await run(f"""
        INSERT INTO background_job
            (id, name, version, arguments, request_id, attempts, state, error)
        VALUES
            ('{id}', 'app.orders.jobs.pay', 1, '{{"order": 7}}', 'the-id', 6, '{state}',
            E'Traceback\\nLookupError: no order 7\\n')
        """)  # noqa: S608 - constants


async def execute(*arguments: str, as_json: bool = False, **changes: object) -> None:
    settings = get_settings().model_copy(update=changes)
    await commands.execute(settings, arguments[0], arguments[1:], as_json=as_json)


async def test_failed_jobs_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    await execute("failed")
    listed = capsys.readouterr()
    assert sorted(line.split()[0] for line in listed.out.splitlines()) == IDS[:2]
    assert "app.orders.jobs.pay  LookupError: no order 7" in listed.out
    assert listed.err == "2 jobs failed.\n"


async def test_a_longer_list_is_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "SHOWN", 1)
    await execute("failed")
    assert capsys.readouterr().err == "At least 1 jobs failed.\n"


async def test_a_job_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    await execute("show", IDS[0], as_json=True)
    shown = json.loads(capsys.readouterr().out)
    assert shown["arguments"] == {"order": 7}
    assert (shown["request_id"], shown["attempts"], shown["state"]) == ("the-id", 6, "dead")
    assert shown["error"].startswith("Traceback")

    await execute("show", IDS[0])
    assert 'arguments: {"order": 7}' in capsys.readouterr().out


async def test_failed_jobs_run_again(capsys: pytest.CaptureFixture[str]) -> None:
    # The job that waits, and a job that never was, are no failed jobs.
    with pytest.raises(SystemExit, match=f"^jobs: no failed job has the id {IDS[2]}, {UNKNOWN}.$"):
        await execute("retry", IDS[0], IDS[2], UNKNOWN)
    assert capsys.readouterr().out == "1 jobs run again.\n"
    assert await states() == ["dead", "waiting", "waiting"]
    assert {row["attempts"] for row in await rows()} == {6}

    await execute("retry", "all")
    await execute("failed", as_json=True)
    assert capsys.readouterr().out == "1 jobs run again.\n[]\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "x"], "'x' is no id of a job; `python -m app jobs failed` lists them."),
        (["show", UNKNOWN], f"there is no job {UNKNOWN}: it succeeded, or never was."),
        (["retry"], "use `failed`, `show ID`, `retry ID...` or `retry all`."),
    ],
)
async def test_a_wrong_argument_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as caught:
        await execute(*arguments)

    assert caught.value.code == f"jobs: {message}"


async def test_a_database_without_the_table_is_named() -> None:
    url = make_url(get_settings().database_url.get_secret_value()).set(database="postgres")
    empty = SecretStr(url.render_as_string(hide_password=False))

    with pytest.raises(SystemExit, match="`python -m app migrate` makes the table"):
        await execute("failed", database_url=empty)


async def test_the_command_ends_in_one_line_without_the_database() -> None:
    nowhere = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/postgres"
    process = await asyncio.to_thread(run_command, "jobs", "failed", DATABASE_URL=nowhere)

    assert (process.returncode, process.stdout) == (1, "")
    assert process.stderr == "jobs: The database cannot be reached.\n"
