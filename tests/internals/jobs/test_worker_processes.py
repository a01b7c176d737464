"""Worker processes: a kill, a signal, a job that ends its process, a job that blocks it."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from blockbuster import BlockBuster

from app.core.database import WriteSession
from app.core.jobs import enqueue
from dev.guardian import stop
from dev.processes import log_of, start
from tests.core.serving import ROOT, program
from tests.internals.jobs.process import (
    block,
    die,
    go_on,
    hang_in_thread,
    hang_once,
    mark,
    write_slowly,
)
from tests.internals.jobs.queue import counts, make_due, rows, run, states, until

TIMEOUT_S = 60


@pytest.fixture(autouse=True)
def _prepared(database: None, blockbuster: BlockBuster) -> None:
    """Let these tests start processes and read files while nothing else runs."""
    blockbuster.deactivate()


async def is_empty() -> bool:
    return await rows() == []


async def is_dead() -> bool:
    return await states() == ["dead"]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def has_lines(path: Path, count: int) -> Any:
    async def check() -> bool:
        return len(await asyncio.to_thread(lines, path)) >= count

    return check


@contextmanager
def worker_process(home: Path, **variables: str) -> Iterator[psutil.Popen]:
    """Run a worker with the jobs of `process.py`; print its log at the end."""
    home.mkdir()
    command = [sys.executable, "-c", "from tests.internals.jobs.process import worker; worker()"]
    process = start(command, home, cwd=ROOT, variables={"JOB_LEASE_S": "1"} | variables)
    try:
        yield process
    finally:
        stop(process)
        print(log_of(home).read_text())


async def test_a_killed_worker_loses_no_job(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    with worker_process(tmp_path / "first") as first:
        await enqueue(None, hang_once, str(file))
        await until(has_lines(file, 1))
        first.send_signal(signal.SIGKILL)
        with worker_process(tmp_path / "second"):
            await until(is_empty)

    assert len(lines(file)) == 2


async def test_a_signal_lets_jobs_end_with_their_resources(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    with worker_process(tmp_path / "worker") as process:
        await enqueue(None, write_slowly, str(file))
        await until(has_lines(file, 1))
        process.terminate()
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 0

    assert lines(file) == ["began", "ended"]
    assert await rows() == []
    assert await counts() == {"succeeded": 1}


async def test_a_deploy_under_load_runs_every_job_once(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    with worker_process(tmp_path / "old") as old:
        for number in range(200):
            async with WriteSession() as session:
                await enqueue(session, mark, str(file), str(number))
        await until(has_lines(file, 20))
        old.send_signal(signal.SIGQUIT)
        with worker_process(tmp_path / "new"):
            for number in range(200, 300):
                async with WriteSession() as session:
                    await enqueue(session, mark, str(file), str(number))
            await until(is_empty)
        assert await asyncio.to_thread(old.wait, TIMEOUT_S) == 0

    assert sorted(map(int, lines(file))) == list(range(300))
    assert await counts() == {"succeeded": 300}


async def test_a_job_that_kills_its_process_is_a_dead_letter(tmp_path: Path) -> None:
    file = tmp_path / "pids"
    await enqueue(None, die, str(file))
    # Two processes have ended before.
    await run("UPDATE background_job SET deliveries = 2")
    with worker_process(tmp_path / "third") as process:
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 9
    await make_due()
    with worker_process(tmp_path / "fourth"):
        await until(is_dead)

    assert len(lines(file)) == 1


async def test_a_job_that_blocks_the_event_loop_ends_the_process(tmp_path: Path) -> None:
    home = tmp_path / "worker"
    with worker_process(home, JOB_TIME_LIMIT_S="1") as process:
        await enqueue(None, block, str(tmp_path / "pids"))
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 1
        log = log_of(home).read_text()

    assert "Timeout" in log
    assert "process.py" in log
    assert "in block" in log
    assert await states() == ["waiting"]


async def test_a_thread_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    with worker_process(tmp_path / "worker", JOB_DRAIN_TIMEOUT_S="0") as process:
        await enqueue(None, hang_in_thread, str(file))
        await until(has_lines(file, 1))
        process.terminate()
        assert await asyncio.to_thread(process.wait, 30) == 0

    assert await states() == ["waiting"]


async def test_a_resource_that_fails_ends_the_process(tmp_path: Path) -> None:
    home = tmp_path / "worker"
    with worker_process(home, LOSES_RESOURCE="1") as process:
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 1
        assert "ConnectionError: lost" in log_of(home).read_text()


async def test_a_job_that_goes_on_after_the_stop_ends_the_process(tmp_path: Path) -> None:
    file, home = tmp_path / "lines", tmp_path / "worker"
    with worker_process(home, JOB_DRAIN_TIMEOUT_S="0") as process:
        await enqueue(None, go_on, str(file))
        await until(has_lines(file, 1))
        process.terminate()
        assert await asyncio.to_thread(process.wait, TIMEOUT_S) == 1
        log = log_of(home).read_text()

    assert lines(file)[1] == "goes on"
    assert "go on after they were cancelled" in log
    assert await states() == ["waiting"]


async def test_the_services_own_command_runs_and_stops() -> None:
    with program("app", "worker", is_ready=lambda log: " ready." in log):
        pass
