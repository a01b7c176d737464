"""Jobs in a real worker, on a real broker: they run, and a killed process loses none."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from app.core.jobs import enqueue
from dev.processes import free_port
from tests.core.job_worker import job_worker
from tests.core.serving import serving
from tests.internals.celery.jobs import mark, need, survive

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def worker() -> Iterator[None]:
    command = (
        "--app=tests.internals.celery.jobs:celery",
        "worker",
        "--concurrency=1",
        "--loglevel=INFO",
    )
    with job_worker("celery", *command):
        yield


def content(path: Path, expected: str) -> str:
    """What the file holds, once it begins with `expected`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (path.exists() and path.read_text().startswith(expected)):
        assert time.monotonic() < deadline, f"{path} has no {expected!r}"
        time.sleep(0.05)
    return path.read_text()


@pytest.mark.usefixtures("worker")
def test_a_job_gets_its_arguments_and_the_database(tmp_path: Path) -> None:
    value = uuid4()
    asyncio.run(enqueue(mark, str(tmp_path / "mark"), value=value))

    assert content(tmp_path / "mark", "UUID") == f"UUID {value}"


@pytest.mark.usefixtures("worker")
def test_a_job_whose_process_is_killed_runs_again(tmp_path: Path) -> None:
    file = tmp_path / "survive"
    asyncio.run(enqueue(survive, str(file)))
    pid = int(content(file, "pid").split()[1])
    os.kill(pid, signal.SIGKILL)

    assert content(file, "survived") == "survived"


@pytest.mark.usefixtures("worker")
def test_a_job_whose_dependency_is_unavailable_runs_again(tmp_path: Path) -> None:
    asyncio.run(enqueue(need, str(tmp_path / "need")))

    assert content(tmp_path / "need", "again") == "again"


def enqueue_at(port: int) -> str:
    """What enqueueing on a broker at this port ends in."""
    program = """
import asyncio, uuid
from app.core.jobs import enqueue
from tests.internals.celery.jobs import mark
try:
    asyncio.run(enqueue(mark, "nowhere", value=uuid.uuid4()))
except Exception as error:
    print(type(error).__name__)
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"BROKER_URL": f"redis://127.0.0.1:{port}/0"},
        capture_output=True,
        text=True,
        timeout=40,
        check=True,
    )
    return process.stdout.strip()


def test_a_function_that_is_no_job_is_refused() -> None:
    async def forgotten() -> None: ...

    with pytest.raises(TypeError, match="not declared with @job"):
        asyncio.run(enqueue(forgotten))


def test_a_broker_that_is_down_is_an_error() -> None:
    assert enqueue_at(free_port()) == "OperationalError"


def test_a_broker_that_is_down_is_said() -> None:
    with serving(BROKER_URL=f"redis://127.0.0.1:{free_port()}/0") as client:
        response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["broker"] == "unreachable"


def test_a_broker_that_hangs_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listens_and_never_answers:
        assert enqueue_at(listens_and_never_answers.getsockname()[1]) == "TimeoutError"


def test_the_services_own_command_starts_and_stops_a_worker() -> None:
    with job_worker():
        pass
