"""A broker that is killed, hangs, or loses its messages, and messages that are no jobs."""

import time
from collections.abc import Iterator

import pytest

from tests.internals.broker.service import Service, eventually, service

pytestmark = pytest.mark.timeout(90)

# Longer than a worker needs to notice that the broker hangs.
HANG_S = 4.0
JUNK = (
    b"junk",
    b"\xff\x00",
    b"",
    b"null",
    b"[]",
    b'{"id": 7, "attempts": 0, "deliveries": 0}',
    b'{"body": "W10=", "headers": {"task": "nowhere.gone", "id": "1"}, "properties": {}}',
    b'{"body": "[[]]", "headers": {"task": "run", "id": "1"}, "properties": {}}',
    b"x" * 100_000,
)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as running:
        pid = running.worker.process.pid
        yield running
        # The same worker lives, and has not started again.
        assert running.worker.process.is_running()
        assert running.worker.log.count(" ready.") == 1
        assert pid == running.worker.process.pid


def test_messages_that_are_no_jobs_are_dead_letters(running: Service) -> None:
    running.broker.client.lpush(running.queue, *JUNK)
    running.enqueue("work", "after-junk")
    running.reaches("after-junk", "accepted", "begun", "used")

    # A message that is not acknowledged yet returns to the queue, so one may be buried twice.
    sql = (
        "SELECT DISTINCT arguments->>'body' FROM background_job "
        "WHERE name = 'message' AND state = 'dead'"
    )
    eventually(lambda: len(running.rows(sql)) == len(JUNK), running.logs)
    bodies = {body[:100] for body in running.rows(sql)}
    readable = {text.decode(errors="replace").replace("\0", "\ufffd")[:100] for text in JUNK}
    assert bodies == readable
    assert max(len(body) for body in running.rows(sql)) == 1024


def test_a_job_that_runs_while_the_broker_restarts_runs_once(running: Service) -> None:
    running.enqueue("work", "restart", duration_s=1)
    running.begun("restart")
    running.broker.kill()
    running.reaches("restart", "accepted", "begun", "used")
    eventually(lambda: running.ready()["broker"] == "unreachable", running.logs)
    # Requests do not need the broker.
    assert running.enqueue("work", "without") == 202
    running.broker.start()
    running.reaches("without", "accepted", "begun", "used")
    eventually(lambda: running.ready()["broker"] == "ok", running.logs)


def test_a_job_that_runs_while_the_broker_hangs_runs_once(running: Service) -> None:
    running.enqueue("work", "hang", duration_s=1)
    running.begun("hang")
    with running.broker.hanging():
        assert running.enqueue("work", "waits") == 202
        running.reaches("hang", "accepted", "begun", "used")
        time.sleep(HANG_S)
    running.reaches("waits", "accepted", "begun", "used")


def test_jobs_whose_messages_the_broker_loses_run(running: Service) -> None:
    busy = [f"busy-{number}" for number in range(2)]
    waiting = [f"waiting-{number}" for number in range(5)]
    for label in busy:
        running.enqueue("work", label, duration_s=1)
    for label in busy:
        running.begun(label)
    for label in waiting:
        running.enqueue("work", label)
    eventually(lambda: running.broker.client.llen(running.queue) > 0, running.logs)
    running.broker.client.flushall()
    for label in busy + waiting:
        running.reaches(label, "accepted", "begun", "used")


def test_a_queue_of_another_type_stops_no_worker(running: Service) -> None:
    running.broker.client.set(running.queue, "no list")
    assert running.enqueue("work", "type") == 202
    time.sleep(1.5)
    running.broker.client.delete(running.queue)
    running.reaches("type", "accepted", "begun", "used")
