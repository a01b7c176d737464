"""`python -m app worker`: a process that runs the jobs of the database."""

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from logging import getLogger
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

from app.core.database import Database
from app.core.jobs import periodic
from app.core.jobs.declaration import declared
from app.core.jobs.worker import running
from app.core.operations import garbage_collection, lifecycle
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.core.telemetry.logs import configure_logging

# How often the event loop shows that no job blocks it.
BEAT_S = 1.0

logger = getLogger(__name__)


def create_worker(
    settings: CoreSettings, resources: Sequence[Resource[Any]] = ()
) -> Callable[[], None]:
    """Return a function that runs jobs until SIGTERM; import the jobs before.

    The process opens `resources`, after those of core.
    """

    def work() -> None:
        configure_logging(settings.log_level, settings.log_format)
        garbage_collection.tune()
        exit_code = 0
        try:
            # Not closed: neither this nor the end of Python may wait for a thread that hangs.
            asyncio.Runner(loop_factory=auto_loop_factory()).run(_work(settings, resources))
        except BaseException:
            logger.exception("The job worker failed")
            exit_code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)

    return work


async def _work(settings: CoreSettings, resources: Sequence[Resource[Any]]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pool_size = settings.plan().job_pool_size - 1
    async with lifecycle.resources(settings, resources, pool_size=pool_size):
        # A connection for the queue alone: leases are extended while jobs hold all others.
        queue = Database()
        queue.open(settings, pool_size=1)
        try:
            async with running(settings, queue), periodic.running():
                logger.info("The job worker is ready.")
                await _watch(stopping, settings.job_time_limit_s)
                logger.info("Stops; waits up to %g s for jobs", settings.job_drain_timeout_s)
        finally:
            await queue.close()


async def _watch(stopping: asyncio.Event, time_limit_s: float) -> None:
    """Wait for `stopping`; end the process if a job blocks the event loop beyond all deadlines.

    No deadline can end such a job. The log then shows its stack, and another worker claims it.
    """
    longest_s = max([time_limit_s, *(job.deadline_s or 0 for job in declared.values())])
    while not stopping.is_set():
        faulthandler.dump_traceback_later(longest_s + BEAT_S, exit=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await stopping.wait()
    faulthandler.cancel_dump_traceback_later()
