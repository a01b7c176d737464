"""Background jobs in Celery: a worker that dies or is killed loses no job.

Celery's defaults acknowledge a task before it runs, and lose the task with the process. With the
settings below the broker keeps a task until it has ended; therefore a job may run twice.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any, ParamSpec

from celery import Celery
from kombu.exceptions import OperationalError

from app.core.http.problems import Unavailable
from app.core.settings.jobs import JobsSettings
from app.core.telemetry import request_id

P = ParamSpec("P")
Job = Coroutine[Any, Any, None]

# The longest wait of a request, after its commit.
PUBLISH_TIMEOUT_S = 2.0
PING_TIMEOUT_S = 1

celery = Celery("app")
# Jobs of one worker process run in this event loop, one at a time.
job_loop = asyncio.Runner()

_jobs: set[Callable[..., Job]] = set()


def open(settings: JobsSettings) -> None:
    """Configure the broker; the first job connects."""
    celery.conf.update(
        broker_url=settings.broker_url.get_secret_value(),
        task_default_queue=settings.job_queue,
        task_ignore_result=True,
        # A job that runs again is sent to the broker: wait for it rather than lose the job.
        task_publish_retry_policy={"max_retries": None, "interval_max": 1},
        # A task leaves the broker when it has ended, and returns when its process died.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=settings.job_time_limit_s,
        worker_prefetch_multiplier=1,
        worker_soft_shutdown_timeout=10,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            # Another worker gets the task of a dead worker after this: longer than every task.
            "visibility_timeout": settings.job_time_limit_s + 60,
            "socket_connect_timeout": 1,
            "socket_timeout": 5,
        },
    )


async def drain() -> None:
    """Do nothing: the broker holds every job."""


close = drain


def job(function: Callable[P, Job]) -> Callable[P, Job]:
    """Declare an async function as a task with the name of its module and function."""

    def run(*args: Any, **kwargs: Any) -> None:
        job_loop.run(function(*args, **kwargs), context=copy_context())

    # If a dependency is unavailable, the job runs again: after 1 s, 2 s, and at most a minute.
    celery.task(
        name=_name(function),
        autoretry_for=(Unavailable,),
        max_retries=None,
        retry_backoff=True,
        retry_backoff_max=60,
    )(run)
    _jobs.add(function)
    return function


async def enqueue(function: Callable[P, Job], /, *args: P.args, **kwargs: P.kwargs) -> None:
    """Send the job to the broker, in a thread because Celery's client blocks.

    Raises:
        kombu.exceptions.OperationalError: when the broker cannot be reached.
        TimeoutError: when the broker takes longer than `PUBLISH_TIMEOUT_S`; the job may still run.
        TypeError: when the function is not declared with `job`.
    """
    if function not in _jobs:
        raise TypeError(f"{function!r} is not declared with @job")
    async with asyncio.timeout(PUBLISH_TIMEOUT_S):
        await asyncio.to_thread(
            celery.send_task,
            _name(function),
            args,
            kwargs,
            headers={"request_id": request_id.current()},
            retry_policy={"max_retries": 2, "interval_start": 0.2, "interval_step": 0.2},
        )


async def checks() -> dict[str, str]:
    """Return the state of the broker for `/readyz`: `ok` or `unreachable`.

    Without the broker, requests are answered but their jobs are lost.
    """
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await asyncio.to_thread(_connect)
    except (OSError, OperationalError):
        return {"broker": "unreachable"}
    return {"broker": "ok"}


def _connect() -> None:
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=PING_TIMEOUT_S)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"
