"""Metrics of jobs: the queue and the outcomes, read from the broker."""

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from app.core.jobs import enqueue
from app.core.jobs.broker import families
from dev.processes import free_port
from tests.core.job_worker import job_worker
from tests.internals.celery.jobs import celery, mark, need

TIMEOUT_S = 30


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use a queue without jobs of other tests, in this process and in workers."""
    name, before = f"test_{secrets.token_hex(8)}", celery.conf.task_default_queue
    monkeypatch.setenv("JOB_QUEUE", name)
    celery.conf.task_default_queue = name
    yield
    celery.conf.task_default_queue = before


def measured() -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in asyncio.run(families())
        for sample in family.samples
    }


@pytest.mark.usefixtures("queue")
def test_jobs_are_counted_by_outcome_and_while_they_wait(tmp_path: Path) -> None:
    asyncio.run(enqueue(mark, str(tmp_path / "mark"), value=uuid4()))
    asyncio.run(enqueue(need, str(tmp_path / "need")))
    asyncio.run(enqueue(mark, str(tmp_path / "none" / "mark"), value=uuid4()))
    waiting = measured()
    assert waiting["jobs_waiting"] == 3
    assert 0 < waiting["jobs_oldest_age_seconds"] < TIMEOUT_S

    command = ("--app=tests.internals.celery.jobs:celery", "worker", "--concurrency=1")
    with job_worker("celery", *command, "--loglevel=INFO"):
        deadline = time.monotonic() + TIMEOUT_S
        while measured().get("jobs_total succeeded") != 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    ended = measured()
    assert ended["jobs_total failed"] == 1
    assert ended["jobs_total retried"] == 1
    assert ended["jobs_waiting"] == ended["jobs_oldest_age_seconds"] == 0


@pytest.mark.usefixtures("queue")
def test_junk_of_other_programs_fails_no_scrape() -> None:
    name = celery.conf.task_default_queue
    with celery.connection_or_acquire() as connection:
        broker = connection.default_channel.client
        for junk in ("junk", "[]", "null", '{"headers":null}', '{"headers":{"sent_at":[]}}'):
            broker.rpush(name, junk)
            assert measured()["jobs_oldest_age_seconds"] == 0
        assert measured()["jobs_waiting"] == 5
        broker.hset(f"{name}:outcomes", "succeeded", "NaN")
        assert measured() == {}
        broker.delete(name, f"{name}:outcomes")


def test_without_the_broker_there_is_nothing_and_no_error() -> None:
    untyped: Any = celery
    before = untyped.conf.broker_url, untyped.pool
    untyped.conf.broker_url = f"redis://127.0.0.1:{free_port()}/0"
    # Not closed: the same pool serves the other tests.
    untyped._pool = None
    try:
        assert measured() == {}
    finally:
        untyped.conf.broker_url, untyped._pool = before
