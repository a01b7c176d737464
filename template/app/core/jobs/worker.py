"""Claims the jobs that are due, and runs a limited number of them at once."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from logging import getLogger
from typing import Any

from app.core.database import Database, database
from app.core.jobs.execution import RELEASE_TIMEOUT_S, RETRY_S, executor
from app.core.jobs.message import Message
from app.core.settings.jobs import JobsSettings

# Longest time from the moment when a job is due to its start, if the worker has a free slot.
POLL_S = 0.1
GATHER_S = 0.003

logger = getLogger(__name__)


@asynccontextmanager
async def running(
    settings: JobsSettings, source: Database = database, *, poll_s: float = POLL_S
) -> AsyncIterator["Worker"]:
    """Claim and run jobs until the block ends; then wait for them, and release the late ones."""
    async with executor.opened(settings, source):
        worker = Worker(settings.job_concurrency, poll_s)
        claiming = asyncio.create_task(worker.claim())
        try:
            yield worker
        finally:
            worker.stop()
            await claiming
            await worker.wait(settings.job_drain_timeout_s)
            if worker.tasks:
                executor.cancel()
                await asyncio.wait(worker.tasks, timeout=RELEASE_TIMEOUT_S)


class Worker:
    """A claim loop.

    Attributes:
        slots: for the jobs that run at once.
        tasks: the jobs that run, or wait for a slot.
    """

    def __init__(self, concurrency: int, poll_s: float) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.tasks: set[asyncio.Task[None]] = set()
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._stops = False
        self._wake = asyncio.Event()

    async def claim(self) -> None:
        """Claim due jobs whenever a slot is free, until `stop`."""
        problem = ""
        while not self._stops:
            self._wake.clear()
            free = max(self._concurrency - len(self.tasks), 0)
            try:
                claimed = await executor.claim(free) if free else []
            except Exception as error:
                # Once for each outage.
                if repr(error) != problem:
                    logger.warning("No jobs are claimed: %r", error)
                problem = repr(error)
                await self._wait(RETRY_S)
                continue
            if free and problem:
                logger.info("Jobs are claimed again")
                problem = ""
            for message in claimed:
                self.start(self._execute(message))
            # After fewer jobs than free slots, no other job is due.
            await self._wait(self._poll_s if len(claimed) < free else None)
            if len(claimed) == free and len(self.tasks) > self._concurrency / 2:
                # One claim for all slots that become free in this time.
                await asyncio.sleep(GATHER_S)

    def stop(self) -> None:
        self._stops = True
        self._wake.set()

    def start(self, execution: Coroutine[Any, Any, None]) -> None:
        """Run a job in a task, whose context has nothing of a request."""
        task = asyncio.create_task(execution, context=Context())
        # The event loop keeps only weak references to tasks.
        self.tasks.add(task)
        task.add_done_callback(self._end)

    async def wait(self, timeout_s: float) -> None:
        """Wait until no job runs, and none that a job has enqueued."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.tasks:
                    await asyncio.wait(self.tasks)

    async def _execute(self, message: Message) -> None:
        async with self.slots:
            await executor.execute(message)

    def _end(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._wake.set()
        if not task.cancelled() and (error := task.exception()):
            logger.error("The outcome of a job is not stored", exc_info=error)

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait until a job ends, until `stop`, or until the time-out."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
