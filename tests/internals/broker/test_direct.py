"""Without an outbox the broker gets whole jobs, and the worker stores them before they run."""

import json
from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.internals.broker.jobs import work
from tests.internals.broker.service import Service, eventually, service

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def running() -> Iterator[Service]:
    with service() as running:
        yield running


def message(label: str) -> str:
    fields = {"id": str(uuid4()), "name": work.name, "version": 1, "request_id": "the-id"}
    return json.dumps(fields | {"arguments": json.dumps({"label": label})})


def test_a_job_and_its_retries_come_through_the_broker(running: Service) -> None:
    for job in ("work", "need", "die"):
        assert running.enqueue(job, job) == 202
    running.reaches("work", "accepted", "begun", "used")
    running.reaches("need", "accepted", "begun", "begun", "done")
    running.reaches("die", "accepted", "begun", "begun", "done")


def test_a_job_that_comes_again_runs_once(running: Service) -> None:
    twice = message("twice")
    running.broker.client.lpush(running.queue, twice, twice)
    running.reaches("twice", "begun", "used")
    # After its end.
    running.broker.client.lpush(running.queue, twice, message("later"))
    running.reaches("later", "begun", "used")
    running.reaches("twice", "begun", "used")


def test_messages_that_are_no_jobs_are_dead_letters(running: Service) -> None:
    running.broker.client.lpush(running.queue, "junk", message("x").replace("work", "wor\\u0000k"))
    sql = "SELECT count(*) FROM background_job WHERE name = 'message' AND state = 'dead'"
    eventually(lambda: running.rows(sql) == [2], running.logs)


def test_without_the_broker_a_request_fails_unless_its_job_is_optional(running: Service) -> None:
    running.broker.kill()
    eventually(lambda: running.ready()["broker"] == "unreachable", running.logs)
    assert running.enqueue("work", "required") == 503
    assert running.steps("required") == []
    assert running.enqueue("work", "optional", optional=True) == 202
    assert running.steps("optional") == ["accepted"]
    running.broker.start()
    eventually(lambda: running.ready()["broker"] == "ok", running.logs)
    assert running.enqueue("work", "again") == 202
    running.reaches("again", "accepted", "begun", "used")
