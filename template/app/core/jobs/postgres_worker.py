"""`python -m app worker`: a process that runs the jobs of the database."""

import asyncio
import faulthandler
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from logging import getLogger
from typing import Any

from uvicorn.loops.auto import auto_loop_factory

from app.core.database.engine import Database
from app.core.jobs import periodic
from app.core.jobs.declaration import declared
from app.core.jobs.worker import running
from app.core.operations import lifecycle
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
    return partial(_run, settings, resources)


def _run(settings: CoreSettings, resources: Sequence[Resource[Any]]) -> None:
    configure_logging(settings.log_level, settings.log_format)
    exit_code = 0
    try:
        # Not closed: neither this nor the end of the interpreter may wait for a thread that hangs.
        asyncio.Runner(loop_factory=auto_loop_factory()).run(_work(settings, resources))
    except BaseException:
        logger.exception("The job worker failed")
        exit_code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


async def _work(settings: CoreSettings, resources: Sequence[Resource[Any]]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    # A connection for the queue alone: leases are extended while jobs hold all others.
    queue = Database()
    deadlines_s = [job.deadline_s or 0 for job in declared.values()]
    longest_s = max([settings.job_time_limit_s, *deadlines_s])
    pool_size = settings.plan().job_pool_size - 1
    async with lifecycle.resources(settings, resources, pool_size=pool_size):
        queue.open(settings, pool_size=1)
        try:
            async with running(settings, queue), periodic.running():
                logger.info("The job worker is ready.")
                await _watch(stopping, longest_s)
                logger.info("Stops; waits up to %g s for jobs", settings.job_drain_timeout_s)
        finally:
            await queue.close()


async def _watch(stopping: asyncio.Event, longest_s: float) -> None:
    """Wait for `stopping`; end the process if a job blocks the event loop for `longest_s`.

    No deadline can end such a job. The log then shows its stack, and another worker claims it.
    """
    while not stopping.is_set():
        faulthandler.dump_traceback_later(longest_s + BEAT_S, exit=True)
        with suppress(TimeoutError):
            async with asyncio.timeout(BEAT_S):
                await stopping.wait()
    faulthandler.cancel_dump_traceback_later()
