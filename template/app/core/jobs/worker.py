"""Celery's worker: each of its processes opens the resources that jobs use."""

from contextlib import AsyncExitStack
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_process_shutdown

from app.core import jobs
from app.core.jobs.celery import celery, job_loop
from app.core.operations.capacity import JOB_POOL_SIZE
from app.core.operations.lifecycle import resources
from app.core.operations.logs import configure_logging
from app.core.operations.settings import CoreSettings


def create_worker(settings: CoreSettings) -> Celery:
    """Configure Celery for the worker process; import the jobs beside it."""
    process = AsyncExitStack()

    def start(**_: Any) -> None:
        configure_logging(settings.log_level)
        job_loop.run(process.enter_async_context(resources(settings, pool_size=JOB_POOL_SIZE)))

    def stop(**_: Any) -> None:
        job_loop.run(process.aclose())
        job_loop.close()

    jobs.open(settings)
    # Celery keeps only weak references otherwise.
    worker_process_init.connect(start, weak=False)
    worker_process_shutdown.connect(stop, weak=False)
    return celery
