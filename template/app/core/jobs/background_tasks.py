"""Jobs in the web process, after the response.

The first run of a job is in memory, and a killed process loses it. A job that fails, is late when
the process stops, or has a key or a delay, is stored in the database. One web process claims it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from logging import getLogger
from time import monotonic

from app.core.database import WriteSession
from app.core.http.problems import Busy, Unavailable
from app.core.jobs import periodic, statements
from app.core.jobs.execution import RETRY_S, executor
from app.core.jobs.lost import Count, default_directory, take_lost
from app.core.jobs.message import Message, store
from app.core.jobs.outcome import Delivery, Outcome
from app.core.jobs.worker import Worker, running
from app.core.settings.jobs import JobsSettings

# Each web process asks the database for due jobs this often.
POLL_S = 1.0

logger = getLogger(__name__)


class Runner:
    """Runs the jobs of this process; opened and closed with its other resources."""

    def __init__(self) -> None:
        self._settings: JobsSettings | None = None
        self._worker: Worker | None = None
        self._slots = asyncio.Semaphore()
        # When each job that waits in memory was accepted; the first starts first.
        self._waiting: deque[float] = deque()
        self._count: Count | None = None

    @asynccontextmanager
    async def opened(self, settings: JobsSettings) -> AsyncIterator[None]:
        """Accept and run jobs until the block ends; then drain, and store the jobs that are left.

        Logs how many jobs the processes that were killed have lost.
        """
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.job_concurrency)
        self._waiting.clear()
        await asyncio.to_thread(self._open_count)
        try:
            claimed = running(settings, execute=self._run_claimed, poll_s=POLL_S)
            async with claimed as self._worker, periodic.running():
                yield
        finally:
            self._settings = self._worker = None
            if self._count:
                await asyncio.to_thread(self._count.close)

    async def accept(self, session: WriteSession | None, message: Message) -> None:
        """Run the job soon, in this process: after the commit of the session, if there is one.

        Raises:
            RuntimeError: when the process has not opened its resources.
            Busy: when `JOB_BACKLOG` jobs wait already.
        """
        if message.key is not None or message.delay_s:
            await store(session, message)
            return
        if self._settings is None or self._worker is None:
            raise RuntimeError("Jobs need `async with lifecycle.resources(...)`.")
        limit = self._settings.job_concurrency + self._settings.job_backlog
        if self._worker.running >= limit:
            executor.count("refused")
            raise Busy(f"{message.name} is not run: too many jobs wait.")
        delivery = Delivery(
            message.id,
            message.name,
            message.version,
            message.arguments,
            message.key,
            message.request_id,
        )
        if session is None:
            await self._start(delivery)
        else:
            session.after_commit(partial(self._start, delivery))

    def backlog(self) -> tuple[int, float]:
        """Return the number of jobs that wait in memory, and the seconds of the oldest."""
        return len(self._waiting), monotonic() - self._waiting[0] if self._waiting else 0.0

    async def drain(self) -> None:
        """Wait for the jobs that were accepted, up to the drain timeout."""
        if self._worker and self._settings:
            await self._worker.wait(self._settings.job_drain_timeout_s)

    async def _start(self, delivery: Delivery) -> None:
        if self._worker is None:
            logger.error("job %s is lost: the process has closed its resources", delivery.name)
            return
        if self._count:
            self._count.add(1)
        self._waiting.append(monotonic())
        self._worker.start(self._run_accepted(delivery))

    async def _run_claimed(self, delivery: Delivery) -> None:
        async with self._slots:
            await executor.execute(delivery)

    async def _run_accepted(self, delivery: Delivery) -> None:
        try:
            async with self._slots:
                self._waiting.popleft()
                outcome = await executor.run(delivery)
            if outcome.label != "succeeded":
                await self._store(delivery, outcome)
        finally:
            if self._count:
                self._count.add(-1)

    async def _store(self, delivery: Delivery, outcome: Outcome) -> None:
        """Insert the job with its outcome; try until the database accepts it."""
        message = Message(
            delivery.id,
            delivery.name,
            delivery.version,
            delivery.arguments,
            delivery.request_id,
            delay_s=outcome.delay_s,
        )
        result = {"attempts": outcome.attempts, "state": outcome.state, "error": outcome.error}
        while True:
            try:
                await executor.fetch(statements.ADD, **message.row() | result)
                return
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    def _open_count(self) -> None:
        try:
            directory = default_directory()
            if lost := take_lost(directory):
                logger.error("Processes that were killed lost %d jobs.", lost)
            self._count = Count(directory)
        except OSError as error:
            logger.warning("Jobs that a kill loses are not counted: %s", error)


async def checks() -> dict[str, str]:
    """Return no state for `/readyz`, which checks the database itself."""
    return {}


runner = Runner()
accept, drain, opened = runner.accept, runner.drain, runner.opened
