"""What is particular to RQ: its list of taken messages, its tools, and processes of a master."""

from collections.abc import Iterator

import psutil
import pytest
from rq import Queue
from rq.worker import BaseWorker

from tests.internals.broker.service import Service, eventually, service

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as running:
        yield running


def test_a_message_that_a_killed_process_had_taken_returns(running: Service) -> None:
    taken = f"{running.queue}:intermediate"
    running.broker.client.lpush(taken, "taken")
    sql = "SELECT arguments->>'body' FROM background_job WHERE state = 'dead'"
    eventually(lambda: running.rows(sql) == ["taken"], running.logs)
    eventually(lambda: running.broker.client.llen(taken) == 0, running.logs)


def test_tools_of_rq_see_the_workers_and_the_queue(running: Service) -> None:
    client = running.broker.client
    eventually(lambda: bool(Queue.all(connection=client)), running.logs)
    (queue,) = Queue.all(connection=client)
    assert queue.key == running.queue
    eventually(lambda: BaseWorker.count(queue=queue) == 2, running.logs)


def test_processes_of_a_killed_master_end_their_jobs_and_themselves(running: Service) -> None:
    processes = running.worker.process.children(recursive=True)
    running.enqueue("work", "orphan", duration_s=0.5)
    running.begun("orphan")
    running.worker.process.kill()
    psutil.wait_procs(processes, timeout=10)
    assert not any(process.is_running() for process in processes)
    assert running.steps("orphan") == ["accepted", "begun", "used"]
    running.start_worker()


def test_a_process_whose_job_blocks_it_ends_and_is_replaced(
    running: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    running.worker.kill()
    monkeypatch.setenv("JOB_TIME_LIMIT_S", "1")
    running.start_worker()
    running.enqueue("block", "blocks")
    eventually(lambda: "ended with exit code 1" in running.worker.log, running.logs)
    # The stack of the event loop.
    assert "in block" in running.worker.log
