"""Claims the jobs that are due, and runs a limited number of them at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from logging import getLogger
from typing import Any

from app.core.database.engine import Database, database
from app.core.jobs.execution import RELEASE_TIMEOUT_S, RETRY_S, executor
from app.core.jobs.outcome import Delivery
from app.core.settings.jobs import JobsSettings

# Longest time from the moment when a job is due to its start, if the worker has a free slot.
POLL_S = 0.1
GATHER_S = 0.003

logger = getLogger(__name__)

Execute = Callable[[Delivery], Coroutine[Any, Any, None]]


@asynccontextmanager
async def running(
    settings: JobsSettings,
    source: Database = database,
    *,
    execute: Execute = executor.execute,
    poll_s: float = POLL_S,
) -> AsyncIterator["Worker"]:
    """Claim and run jobs until the block ends; then wait for them, and release the late ones."""
    async with executor.opened(settings, source):
        worker = Worker(settings.job_concurrency, execute, poll_s)
        claiming = asyncio.create_task(worker.claim())
        try:
            yield worker
        finally:
            worker.stop()
            await claiming
            await worker.drain(settings.job_drain_timeout_s)


class Worker:
    """A claim loop; `execute` runs one job and stores its outcome."""

    def __init__(self, concurrency: int, execute: Execute, poll_s: float) -> None:
        self._concurrency = concurrency
        self._execute = execute
        self._poll_s = poll_s
        self._stops = False
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._problem = ""

    async def claim(self) -> None:
        """Claim due jobs whenever a slot is free, until `stop`."""
        while not self._stops:
            self._wake.clear()
            free = max(self._concurrency - len(self._tasks), 0)
            claimed = await self._claim(free) if free else 0
            # After fewer jobs than free slots, no other job is due.
            await self._wait(self._poll_s if claimed < free else None)
            if claimed == free and len(self._tasks) > self._concurrency / 2:
                # One claim for all slots that become free in this time.
                await asyncio.sleep(GATHER_S)

    def stop(self) -> None:
        self._stops = True
        self._wake.set()

    async def wait(self, timeout_s: float) -> None:
        """Wait until no job runs, and none that a job has enqueued."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(self._tasks)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the jobs that run; cancel those that take longer, and release them."""
        await self.wait(timeout_s)
        if self._tasks:
            executor.cancel()
            await asyncio.wait(self._tasks, timeout=RELEASE_TIMEOUT_S)

    @property
    def running(self) -> int:
        """The number of jobs that run, or wait in memory."""
        return len(self._tasks)

    def start(self, execution: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(execution)
        # The event loop keeps only weak references to tasks.
        self._tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            logger.error("The outcome of a job is not stored", exc_info=error)

    async def _claim(self, limit: int) -> int:
        try:
            deliveries = await executor.claim(limit)
        except Exception as error:
            # Once for each outage.
            if repr(error) != self._problem:
                logger.warning("No jobs are claimed: %r", error)
            self._problem = repr(error)
            await self._wait(RETRY_S)
            return 0
        if self._problem:
            logger.info("Jobs are claimed again")
            self._problem = ""
        for delivery in deliveries:
            self.start(self._execute(delivery))
        return len(deliveries)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait until a job ends, until `stop`, or until the time-out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
