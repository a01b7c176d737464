"""Jobs in a real worker, on a real broker: they run, and a killed process loses none."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from fastapi import FastAPI

from app.core.jobs import enqueue
from app.core.jobs.celery import celery
from dev.serving import free_port
from tests.core.celery.jobs import mark, survive
from tests.core.celery.worker import job_worker

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def worker() -> Iterator[None]:
    with job_worker("celery", "--app=tests.core.celery.jobs:celery", "worker", "--concurrency=1"):
        yield


async def content(path: Path, expected: str) -> str:
    """What the file holds, once it begins with `expected`."""
    async with asyncio.timeout(TIMEOUT_S):
        while not (path.exists() and path.read_text().startswith(expected)):
            await asyncio.sleep(0.05)
    return path.read_text()


@pytest.mark.usefixtures("worker")
async def test_a_job_gets_its_arguments_and_the_database(app: FastAPI, tmp_path: Path) -> None:
    value = uuid4()
    await enqueue(mark, str(tmp_path / "mark"), value=value)

    assert await content(tmp_path / "mark", "UUID") == f"UUID {value}"


@pytest.mark.usefixtures("worker")
async def test_a_job_whose_process_is_killed_runs_again(app: FastAPI, tmp_path: Path) -> None:
    file = tmp_path / "survive"
    await enqueue(survive, str(file))
    pid = int(await content(file, ""))
    os.kill(pid, signal.SIGKILL)

    assert await content(file, "survived") == "survived"


def test_a_broker_that_is_down_is_an_error_and_not_a_hang() -> None:
    program = """
import asyncio, uuid
from app.core.jobs import enqueue
from tests.core.celery.jobs import mark
asyncio.run(enqueue(mark, "nowhere", value=uuid.uuid4()))
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"BROKER_URL": f"redis://127.0.0.1:{free_port()}/0"},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )

    assert "kombu.exceptions.OperationalError" in process.stderr


def test_the_services_own_command_runs_a_worker() -> None:
    with job_worker():
        replies: list[object] = []
        for _ in range(20):
            replies = celery.control.ping(timeout=1)
            if replies:
                break
        assert replies
