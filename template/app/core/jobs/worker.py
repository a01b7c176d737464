"""Celery's worker: each of its processes opens the resources that jobs use."""

from contextlib import AsyncExitStack
from logging import LogRecord, getLogger
from typing import Any

from celery import Celery
from celery.signals import (
    setup_logging,
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
)

from app.core import jobs
from app.core.jobs.celery import celery, job_loop
from app.core.operations import request_id
from app.core.operations.jobs_settings import JOB_POOL_SIZE
from app.core.operations.lifecycle import resources
from app.core.operations.logs import configure_logging
from app.core.operations.settings import CoreSettings


def create_worker(settings: CoreSettings) -> Celery:
    """Configure Celery for the worker process; import the jobs beside it."""
    process = AsyncExitStack()
    _configure_logging(settings)

    def start(**_: Any) -> None:
        job_loop.run(process.enter_async_context(resources(settings, pool_size=JOB_POOL_SIZE)))

    def stop(**_: Any) -> None:
        job_loop.run(process.aclose())
        job_loop.close()

    def begin(task: Any, **_: Any) -> None:
        request_id.begin((task.request.headers or {}).get("request_id", ""))

    def end(**_: Any) -> None:
        request_id.begin("")

    jobs.open(settings)
    # Celery keeps only weak references otherwise.
    task_prerun.connect(begin, weak=False)
    task_postrun.connect(end, weak=False)
    worker_process_init.connect(start, weak=False)
    worker_process_shutdown.connect(stop, weak=False)
    return celery


def _configure_logging(settings: CoreSettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    # With a receiver for this signal, Celery changes no logger.
    setup_logging.connect(_keep_logging, weak=False)
    getLogger("celery").setLevel(settings.log_level)
    # That of Celery's processes, which passes nothing on.
    getLogger("multiprocessing").handlers = getLogger().handlers
    for name in ("celery.app.trace", "celery.worker.strategy"):
        getLogger(name).addFilter(_without_arguments)


def _keep_logging(**_: Any) -> None: ...


def _without_arguments(record: LogRecord) -> bool:
    """Keep the record without the arguments of its job, which may be personal data."""
    vars(record).pop("data", None)
    return True
