"""Claims the jobs that are due, and runs a limited number of them at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from logging import getLogger

from app.core.database.engine import Database, database
from app.core.jobs import statements
from app.core.jobs.execution import RETRY_S, Delivery, executor
from app.core.settings.jobs import JobsSettings

# Longest time from the moment when a job is due to its start, if the worker has a free slot.
POLL_S = 0.5
# Time for cancelled jobs to end and to be released.
RELEASE_TIMEOUT_S = 2.0

logger = getLogger(__name__)

Execute = Callable[[Delivery], Awaitable[None]]


@asynccontextmanager
async def running(
    settings: JobsSettings,
    source: Database = database,
    *,
    execute: Execute = executor.execute,
    poll_s: float = POLL_S,
) -> AsyncIterator[None]:
    """Claim and run jobs until the block ends; then wait for them, and release the late ones."""
    async with executor.opened(settings, source):
        worker = Worker(settings.job_concurrency, execute, poll_s)
        claiming = asyncio.create_task(worker.claim())
        try:
            yield
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
        self._running: set[asyncio.Task[None]] = set()
        self._problem = ""

    async def claim(self) -> None:
        """Claim due jobs whenever a slot is free, until `stop`."""
        while not self._stops:
            self._wake.clear()
            free = self._concurrency - len(self._running)
            claimed = await self._claim(free) if free else 0
            # If there were fewer than slots, no other job is due.
            await self._wait(self._poll_s if claimed < free else None)

    def stop(self) -> None:
        """Claim no more jobs."""
        self._stops = True
        self._wake.set()

    async def drain(self, timeout_s: float) -> None:
        """Wait for the jobs that run; cancel those that take longer, and release them."""
        if self._running:
            await asyncio.wait(self._running, timeout=timeout_s)
        if self._running:
            executor.cancel()
            await asyncio.wait(self._running, timeout=RELEASE_TIMEOUT_S)

    async def _claim(self, limit: int) -> int:
        try:
            values = {"limit": limit, "lease_s": executor.lease_s}
            rows = await executor.fetch(statements.CLAIM, **values)
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
        for row in rows:
            task = asyncio.create_task(self._run(Delivery(**row)))
            self._running.add(task)
        return len(rows)

    async def _run(self, delivery: Delivery) -> None:
        try:
            await self._execute(delivery)
        except Exception:
            logger.exception("The outcome of job %s is not stored", delivery.id)
        finally:
            task = asyncio.current_task()
            assert task
            self._running.discard(task)
            self._wake.set()

    async def _wait(self, timeout_s: float | None) -> None:
        """Wait until a job ends, until `stop`, or until the time-out."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            pass
