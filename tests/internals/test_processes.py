"""The pool of processes: bounded, with deadlines, and without anything of its parent."""

import asyncio
import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from httpx2 import Client, TransportError

from app.core.concurrency import slots
from app.core.concurrency.processes import ProcessDied, ProcessPool, _Child
from app.core.http.problems import Busy
from dev.guardian import runs
from dev.processes import free_port
from tests.core.serving import program
from tests.internals import computing
from tests.internals.commands import master_of, until


def children() -> list[psutil.Process]:
    """Return the processes of the pools of this process."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(part.endswith("concurrency/child.py") for part in child.cmdline()):
                found.append(child)
    return found


async def has_one(others: set[psutil.Process]) -> bool:
    """Return whether the pool has one process."""
    return len(set(await asyncio.to_thread(children)) - others) == 1


def answers(client: Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except TransportError:
        return False


@pytest.fixture
def others() -> Iterator[set[psutil.Process]]:
    """Yield the processes of other pools; none of another one is left after the test."""
    others = set(children())
    yield others
    assert set(children()) <= others


@pytest.fixture
async def pool(others: set[psutil.Process]) -> AsyncIterator[ProcessPool]:
    """Yield an open pool of two."""
    pool = ProcessPool()
    pool.slots.open(2)
    yield pool
    await pool.close()


async def test_calls_share_processes_that_import_little(pool: ProcessPool) -> None:
    first, second = await asyncio.gather(*(pool.run(computing.sleep, 0.2) for _ in range(2)))

    assert first != second
    assert await pool.run(os.getpid) in (first, second)
    loaded = await pool.run(computing.modules)
    assert "tests.internals.computing" in loaded
    assert not {"app.core.http", "asyncio", "fastapi", "pydantic"} & set(loaded)


async def test_a_large_argument_and_result(pool: ProcessPool) -> None:
    picture = os.urandom(5 * 1024**2)

    assert await pool.run(bytes.swapcase, picture) == picture.swapcase()


async def test_a_process_inherits_no_socket_no_handler_and_no_input(pool: ProcessPool) -> None:
    former = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            # As gunicorn's are.
            listener.set_inheritable(True)
            handlers = await pool.run(computing.handlers)
            if sys.platform == "linux":
                # Its connection to this process.
                assert len(await pool.run(computing.sockets)) == 1
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert set(handlers.values()) == {True}
    assert await pool.run(computing.read_input) == ""


async def test_a_stuck_process_is_killed_and_replaced(
    pool: ProcessPool, others: set[psutil.Process]
) -> None:
    for stuck in (computing.forever, computing.forever_in_c):
        with pytest.raises(TimeoutError, match=rf"{stuck.__name__} did not end within 0.5 s"):
            await pool.run(stuck, deadline_s=0.5)

    assert await pool.run(abs, -5) == 5
    assert await has_one(others)


async def test_the_wait_for_a_process_is_within_the_deadline(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    acquired = pool.slots.acquire

    async def slow(timeout_s: float) -> None:
        assert timeout_s == 31
        await acquired(timeout_s)
        await asyncio.sleep(1)

    limits: list[float] = []

    async def answer(_: object, call: bytes, limit_s: float) -> tuple[bool, bytes]:
        limits.append(limit_s)
        return True, pickle.dumps(call)

    monkeypatch.setattr(pool.slots, "acquire", slow)
    monkeypatch.setattr(_Child, "answer", answer)
    await pool.run(abs, -5, deadline_s=31)

    assert 0 <= limits[0] <= 30


async def test_a_cancelled_call_ends_its_process(
    pool: ProcessPool, others: set[psutil.Process]
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await pool.run(computing.forever)

    assert await pool.run(abs, -5) == 5
    assert await has_one(others)


async def test_a_killed_process_fails_its_own_call_alone(pool: ProcessPool) -> None:
    other, killed = await asyncio.gather(
        pool.run(computing.sleep, 0.5), pool.run(computing.die), return_exceptions=True
    )

    assert isinstance(other, int)
    assert isinstance(killed, ProcessDied)
    assert str(killed) == "The process of die ended with code -9."
    # One that dies while it is idle fails no call.
    os.kill(other, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, other, os.WEXITED | os.WNOWAIT)
    assert await pool.run(abs, -5) == 5


async def test_a_full_queue_and_a_long_wait_are_busy(
    pool: ProcessPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = [asyncio.create_task(pool.run(computing.sleep, 60)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(Busy, match=r"No process was free within 0\.01 s\."):
        await pool.run(abs, -5, deadline_s=0.01)
    monkeypatch.setattr(slots, "WAITING", 0.5)
    waiting = asyncio.create_task(pool.run(abs, -5))
    await asyncio.sleep(0)
    with pytest.raises(Busy, match=r"Too many calls wait for a process\.") as refused:
        await pool.run(abs, -5)

    assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "1")
    running[0].cancel()
    assert await waiting == 5
    running[1].cancel()
    await asyncio.wait(running)


async def test_errors_keep_their_class_and_traceback(pool: ProcessPool) -> None:
    with pytest.raises(ZeroDivisionError, match="the reason") as failed:
        await pool.run(computing.fail)

    assert "in fail\n" in "".join(traceback.format_exception(failed.value))


async def test_errors_and_results_that_cannot_be_sent_are_errors(
    pool: ProcessPool, others: set[psutil.Process]
) -> None:
    for function, reason in (
        (computing.fail_awkwardly, "Awkward: 1 and 2"),
        (computing.leave, "SystemExit: the reason"),
    ):
        with pytest.raises(RuntimeError, match=reason):
            await pool.run(function)
    for unfit in (computing.return_function, lambda: None):
        with pytest.raises(Exception, match="lambda"):
            await pool.run(unfit)

    assert await pool.run(abs, -5) == 5
    assert await has_one(others)


async def test_a_signal_to_all_processes_of_the_service_ends_no_call(pool: ProcessPool) -> None:
    pid = await pool.run(os.getpid)
    os.kill(pid, signal.SIGTERM)

    assert await pool.run(os.getpid) == pid


async def test_a_stuck_process_without_a_parent_ends_by_itself() -> None:
    one = _Child()
    with pytest.raises(EOFError):
        await one.answer(pickle.dumps((computing.forever_in_c, ())), 0)

    assert await one.end() == -signal.SIGALRM


def test_a_process_outlives_the_single_runs_of_an_event_loop() -> None:
    pool = ProcessPool()
    pool.slots.open(1)
    # As Celery's processes run their jobs.
    with asyncio.Runner() as runner:
        pids = {runner.run(pool.run(os.getpid)) for _ in range(3)}
        runner.run(pool.close())
        with pytest.raises(RuntimeError, match="lifecycle"):
            runner.run(pool.run(os.getpid))

    assert len(pids) == 1


COMPUTING = """
import os
from app.core.concurrency import run_in_process
from app.main import app
from tests.internals.computing import forever, forever_in_c
from tests.internals.declared import ANYBODY

@app.get("/pid", dependencies=ANYBODY)
async def pid() -> int:
    return await run_in_process(os.getpid)

@app.get("/stuck", dependencies=ANYBODY)
async def stuck() -> None:
    await run_in_process(forever, deadline_s=60)

@app.get("/stuck/c", dependencies=ANYBODY)
async def stuck_in_c() -> None:
    await run_in_process(forever_in_c, deadline_s=60)
"""


@pytest.mark.timeout(90)
def test_no_end_of_a_worker_leaves_a_process_or_a_taken_port(tmp_path: Path) -> None:
    (tmp_path / "computing_app.py").write_text(COMPUTING)
    port = free_port()
    command = ["gunicorn", "-c", "deploy/gunicorn.conf.py", "computing_app:app"]
    variables = {"PORT": str(port), "WEB_CONCURRENCY": "1", "PYTHONPATH": str(tmp_path)}
    with Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

        def process_of_pool() -> psutil.Process:
            until(lambda: answers(client))
            return psutil.Process(client.get("/pid").raise_for_status().json())

        def stuck(path: str) -> psutil.Process:
            """Leave a process of the pool in a call, and kill the worker."""
            process = process_of_pool()
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.send(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
                began = process.cpu_times().user
                until(lambda: process.cpu_times().user > began + 0.1)
                process.parent().kill()
            return process

        with program(*command, is_ready=lambda _: answers(client), **variables):
            reloaded = process_of_pool()
            master = master_of(port)
            master.send_signal(signal.SIGHUP)
            until(lambda: not runs(reloaded))

            killed = stuck("/stuck")
            until(lambda: not runs(killed))

            lives_on = stuck("/stuck/c")
            stopped = process_of_pool()
        try:
            assert not runs(stopped)
            # Python's lock is taken, so that this process notices nothing; it has no socket either.
            assert runs(lives_on)
            with socket.create_server(("127.0.0.1", port)):
                pass
        finally:
            lives_on.kill()
