"""Jobs in a real worker, on a real broker: they run, and a killed process loses none."""

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, redirect_stdout
from contextvars import Context
from pathlib import Path
from uuid import UUID

import httpx2
import pytest

from app.core.jobs import enqueue
from app.core.telemetry import request_id
from dev.processes import free_port
from tests.core.job_worker import job_worker
from tests.core.serving import program, serving
from tests.internals.celery.jobs import celery, mark, need, survive

TIMEOUT_S = 30


@pytest.fixture(scope="module")
def worker() -> Iterator[set[str]]:
    """Run a worker; at its end, its log is JSON alone, and shows no arguments of jobs.

    Yields the ids of requests that the log must have: another process may run the test of one.
    """
    ids: set[str] = set()
    arguments = ("--app=tests.internals.celery.jobs:celery", "--quiet", "worker")
    command = ("celery", *arguments, "--concurrency=1")
    log = io.StringIO()
    running = ExitStack()
    running.enter_context(
        program(*command, is_ready=lambda log: " ready." in log, LOG_FORMAT="json")
    )
    try:
        yield ids
    finally:
        with redirect_stdout(log):
            running.close()
        print(log.getvalue())
    written = [line for line in log.getvalue().splitlines() if line]
    # Celery prints this one.
    lines = [json.loads(line) for line in written if "Warm shutdown" not in line]
    ended = [line["message"].split()[2] for line in lines if line.get("request_id") in ids]
    assert ended == ["succeeded"] * len(ids)
    assert "0123456789ab" not in log.getvalue()
    assert log.getvalue().count("Received unregistered task of type 'nowhere.gone'") == len(ids)


def content(path: Path, expected: str) -> str:
    """What the file holds, once it begins with `expected`."""
    deadline = time.monotonic() + TIMEOUT_S
    while not (path.exists() and path.read_text().startswith(expected)):
        assert time.monotonic() < deadline, f"{path} has no {expected!r}"
        time.sleep(0.05)
    return path.read_text()


def test_a_job_gets_its_arguments_the_database_and_the_id_of_its_request(
    worker: set[str], tmp_path: Path
) -> None:
    worker.add("the-id")
    value = UUID("00000000-0000-0000-0000-0123456789ab")
    # The worker drops it, and logs that.
    celery.send_task("nowhere.gone", [str(value)], headers={"request_id": ["a"]})
    context = Context()
    context.run(request_id.begin, "the-id")
    context.run(asyncio.run, enqueue(mark, str(tmp_path / "mark"), value=value))

    assert content(tmp_path / "mark", "UUID") == f"UUID {value} the-id"


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
from app.core.telemetry import request_id
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
    admin_port = free_port()
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with serving(BROKER_URL=nowhere, ADMIN_PORT=str(admin_port)):
        response = httpx2.get(f"http://127.0.0.1:{admin_port}/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["broker"] == "unreachable"


def test_a_broker_that_hangs_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listens_and_never_answers:
        assert enqueue_at(listens_and_never_answers.getsockname()[1]) == "TimeoutError"


def test_the_services_own_command_starts_and_stops_a_worker() -> None:
    with job_worker():
        pass
