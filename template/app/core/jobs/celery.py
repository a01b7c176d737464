"""Jobs in Celery: a worker that dies, or is killed, loses nothing.

Celery's defaults acknowledge a task before it runs and so lose it with the process; the settings
below keep it in the broker until it has ended, which is why a job may run twice. `python -m app
worker` runs them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, ParamSpec

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown
from kombu.exceptions import OperationalError

from app.core.lifecycle import resources
from app.core.logs import configure_logging
from app.core.settings.jobs import JOB_POOL_SIZE
from app.settings import get_settings

P = ParamSpec("P")

# A request waits for this at most, after its commit.
PUBLISH_TIMEOUT_S = 2.0
PING_TIMEOUT_S = 1

settings = get_settings()

celery = Celery("app", broker=settings.broker_url.get_secret_value())
celery.conf.update(
    imports=["app.api"],
    task_default_queue=settings.job_queue,
    task_ignore_result=True,
    # A task leaves the broker when it has ended, and comes back when its process died.
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_time_limit=settings.job_time_limit_s,
    worker_prefetch_multiplier=1,
    worker_soft_shutdown_timeout=10,
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    broker_transport_options={
        # After this the task of a dead worker goes to another, so it must outlast every task.
        "visibility_timeout": settings.job_time_limit_s + 60,
        "socket_connect_timeout": 1,
        "socket_timeout": 5,
    },
)

_jobs: set[Callable[..., Awaitable[None]]] = set()
_process = AsyncExitStack()
_runner = asyncio.Runner()


def job(function: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Declare an async function as a task, named after its module and itself."""

    def run(*args: Any, **kwargs: Any) -> None:
        _runner.run(_await(function, *args, **kwargs))

    celery.task(name=_name(function))(run)
    _jobs.add(function)
    return function


async def enqueue(
    function: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Hand the job to the broker, in a thread because Celery's client blocks.

    Raises:
        kombu.exceptions.OperationalError: when the broker cannot be reached.
        TimeoutError: when it does not answer within `PUBLISH_TIMEOUT_S`; the job may still run.
        TypeError: when the function was not declared with `job`.
    """
    if function not in _jobs:
        raise TypeError(f"{function!r} is not declared with @job")
    async with asyncio.timeout(PUBLISH_TIMEOUT_S):
        await asyncio.to_thread(
            celery.send_task,
            _name(function),
            args,
            kwargs,
            retry_policy={"max_retries": 2, "interval_start": 0.2, "interval_step": 0.2},
        )


async def ping() -> bool:
    """Whether the broker answers in time."""
    try:
        async with asyncio.timeout(PING_TIMEOUT_S):
            await asyncio.to_thread(_connect)
    except (OSError, OperationalError):
        return False
    return True


async def drain() -> None:
    """Nothing waits in this process: the broker holds every job."""


def _connect() -> None:
    with celery.connection_for_write() as connection:
        connection.ensure_connection(max_retries=1, timeout=PING_TIMEOUT_S)


def _name(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


async def _await(function: Callable[..., Awaitable[None]], *args: Any, **kwargs: Any) -> None:
    await function(*args, **kwargs)


@worker_process_init.connect
def _open(**_: Any) -> None:
    configure_logging(settings.log_level)
    _runner.run(_process.enter_async_context(resources(settings, pool_size=JOB_POOL_SIZE)))


@worker_process_shutdown.connect
def _close(**_: Any) -> None:
    _runner.run(_process.aclose())
    _runner.close()
