"""A process of the web or of a worker that is killed or stopped loses no job, and repeats none."""

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.internals.broker.service import Service, eventually, service

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as running:
        yield running


def test_a_job_runs_after_the_commit_with_a_resource_and_the_id_of_its_request(
    running: Service,
) -> None:
    response = running.client.post("/work/once", headers={"X-Request-ID": "the-id"})
    assert response.status_code == 202
    running.reaches("once", "accepted", "begun", "used")
    ids = running.rows("SELECT request_id FROM effect WHERE label = 'once' AND step = 'used'")
    assert ids == ["the-id"]


def test_a_job_whose_process_dies_runs_again(running: Service) -> None:
    running.enqueue("die", "dies")
    running.reaches("dies", "accepted", "begun", "begun", "done")


def test_a_job_whose_event_loop_ends_runs_again(running: Service) -> None:
    running.enqueue("leave", "leaves")
    running.reaches("leaves", "accepted", "begun", "begun", "done")


def test_a_job_that_kills_its_process_three_times_is_a_dead_letter(running: Service) -> None:
    running.enqueue("die", "always")
    sql = "SELECT error FROM background_job WHERE arguments->>'label' = 'always' AND state = 'dead'"
    eventually(lambda: bool(running.rows(sql)), running.logs)
    assert "delivered 3 times without an outcome" in running.rows(sql)[0]
    assert running.steps("always") == ["accepted", "begun", "begun", "begun"]


def test_a_job_whose_dependency_is_unavailable_runs_again(running: Service) -> None:
    running.enqueue("need", "needs")
    running.reaches("needs", "accepted", "begun", "begun", "done")


def test_a_job_that_fails_for_good_is_a_dead_letter(running: Service) -> None:
    running.enqueue("fail", "fails")
    running.reaches("fails", "accepted", "begun", "begun")
    sql = "SELECT state, attempts, error FROM background_job WHERE arguments->>'label' = 'fails'"
    ((state, attempts, error),) = running.rows(sql)
    assert (state, attempts) == ("dead", 2)
    assert "ValueError: fails is wrong" in error


def test_a_message_that_comes_again_does_nothing(running: Service) -> None:
    running.enqueue("work", "twice", duration_s=0.5)
    running.begun("twice")
    sql = "SELECT id::text FROM background_job WHERE arguments->>'label' = 'twice'"
    message = json.dumps({"id": running.rows(sql)[0], "attempts": 0, "deliveries": 0})
    running.broker.client.lpush(running.queue, message, message)
    running.enqueue("work", "later")
    running.reaches("later", "accepted", "begun", "used")
    running.reaches("twice", "accepted", "begun", "used")
    assert running.rows("SELECT name FROM background_job WHERE name = 'message'") == []


def test_jobs_of_a_web_process_that_is_killed_after_the_commit_run(running: Service) -> None:
    assert running.enqueue("work", "killed", dies=True) == 0
    running.reaches("killed", "accepted", "begun", "used")
    eventually(running.is_served, running.logs)


def test_a_stopped_worker_ends_its_jobs_before_its_resources_close(running: Service) -> None:
    running.enqueue("survive", "long")
    running.begun("long")
    running.enqueue("work", "short", duration_s=0.5)
    pid = running.begun("short")
    ended = running.worker
    running.start_worker()
    ended.process.send_signal(signal.SIGTERM)
    assert ended.stopped() == 0
    running.reaches("short", "accepted", "begun", "used")
    steps = running.rows("SELECT step FROM effect WHERE pid = $1 ORDER BY number", pid)
    assert steps[-2:] == ["used", "closed"]
    assert "did not end in time" in ended.log
    running.reaches("long", "accepted", "begun", "begun", "done")


def test_another_worker_runs_the_job_of_a_worker_that_quits(running: Service) -> None:
    running.enqueue("survive", "quits")
    running.begun("quits")
    ended = running.worker
    running.start_worker()
    ended.process.send_signal(signal.SIGQUIT)
    ended.stopped()
    running.reaches("quits", "accepted", "begun", "begun", "done")


def test_a_worker_that_starts_without_the_broker_runs_the_job_of_one_that_was_killed(
    running: Service,
) -> None:
    running.enqueue("survive", "lost")
    running.begun("lost")
    running.worker.kill()
    running.broker.kill()
    running.start_worker()
    eventually(lambda: "The broker does not answer" in running.worker.log, running.logs)
    running.broker.start()
    running.reaches("lost", "accepted", "begun", "begun", "done")


def test_jobs_run_once_when_web_and_worker_are_deployed_under_load(running: Service) -> None:
    labels = [f"load-{number}" for number in range(300)]

    with ThreadPoolExecutor(4) as clients:
        statuses = clients.map(lambda label: running.enqueue("work", label), labels[:100])
        old = running.worker
        running.start_worker()
        os.kill(running.web.process.pid, signal.SIGHUP)
        more = clients.map(lambda label: running.enqueue("work", label), labels[100:200])
        old.process.send_signal(signal.SIGTERM)
        assert old.stopped() == 0
        last = clients.map(lambda label: running.enqueue("work", label), labels[200:])
        accepted = dict(zip(labels, [*statuses, *more, *last], strict=True))

    assert set(accepted.values()) <= {202, 0}
    left = "SELECT count(*) FROM background_job WHERE state = 'waiting'"
    eventually(lambda: running.rows(left) == [0], running.logs)
    counted = "SELECT label, count(*) FROM effect WHERE label LIKE 'load-%' AND step = 'used'"
    effects = dict(running.rows(f"{counted} GROUP BY label"))
    assert set(effects.values()) == {1}
    assert {label for label, status in accepted.items() if status} <= effects.keys()
