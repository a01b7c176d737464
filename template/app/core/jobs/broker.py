"""Metrics of jobs in the broker, which are the same for all instances of the service."""

import asyncio
import time
from contextlib import suppress
from logging import getLogger
from typing import Any

import orjson
from celery.signals import before_task_publish, task_postrun
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from app.core.jobs.celery import celery

logger = getLogger(__name__)

TIMEOUT_S = 1.0
# The header of a message with the time when it was sent, in seconds since 1970.
SENT = "sent_at"
OUTCOMES = {"SUCCESS": "succeeded", "FAILURE": "failed", "RETRY": "retried"}


@before_task_publish.connect
def _note_time(headers: dict[str, Any], **_: Any) -> None:
    headers[SENT] = time.time()


@task_postrun.connect
def _count(state: str | None = None, **_: Any) -> None:
    """Count a job of a worker in the broker: the workers have no port for metrics."""
    if state in OUTCOMES:
        with celery.connection_or_acquire() as connection:
            connection.default_channel.client.hincrby(_counts(), OUTCOMES[state], 1)


async def families() -> list[Metric]:
    """Return counts of jobs, and length and age of the queue; nothing if the broker is late."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            return await asyncio.to_thread(_ask)
    except Exception as error:
        logger.warning("metrics: the broker does not answer: %s", type(error).__name__)
        return []


def _ask() -> list[Metric]:
    with celery.connection_or_acquire() as connection:
        pipeline = connection.default_channel.client.pipeline(transaction=False)
        # Messages enter on the left.
        pipeline.hgetall(_counts()).llen(_queue()).lindex(_queue(), -1)
        counts, length, oldest = pipeline.execute()
    now = time.time()
    sent_at = now
    # Other programs may put messages without this form into the queue.
    with suppress(ValueError, KeyError, TypeError):
        sent_at = float(orjson.loads(oldest)["headers"][SENT])
    jobs = CounterMetricFamily("jobs", "Jobs that ended, or began again.", labels=["outcome"])
    for outcome in OUTCOMES.values():
        jobs.add_metric([outcome], int(counts.get(outcome.encode(), 0)))
    return [
        jobs,
        GaugeMetricFamily("jobs_waiting", "Jobs that no worker has.", length),
        GaugeMetricFamily("jobs_oldest_age_seconds", "Wait of the oldest.", max(0, now - sent_at)),
    ]


def _queue() -> str:
    return str(celery.conf.task_default_queue)


def _counts() -> str:
    return f"{_queue()}:outcomes"
