"""Jobs in the web process, after the response.

The first run of a job is in memory, and a killed process loses it. A job that fails, is late when
the process stops, or has a key or a delay, is stored in the database. One web process claims it.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from logging import getLogger
from time import monotonic

from app.core.database import WriteSession
from app.core.http.problems import Busy
from app.core.jobs import periodic, statements
from app.core.jobs.execution import executor
from app.core.jobs.lost import Count, default_directory, take_lost
from app.core.jobs.message import Message, store
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
        # When each job that waits in memory was accepted; the first starts first.
        self._waiting: deque[float] = deque()
        self._count: Count | None = None

    @asynccontextmanager
    async def opened(self, settings: JobsSettings) -> AsyncIterator[None]:
        """Accept and run jobs until the block ends; then drain, and store the jobs that are left.

        Logs how many jobs the processes that were killed have lost.
        """
        self._settings = settings
        self._waiting.clear()
        await asyncio.to_thread(self._open_count)
        try:
            async with running(settings, poll_s=POLL_S) as self._worker, periodic.running():
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
        if len(self._worker.tasks) >= limit:
            executor.count("refused")
            raise Busy(f"{message.name} is not run: too many jobs wait.")
        start = partial(self._start, replace(message, deliveries=1))
        if session is None:
            await start()
        else:
            session.after_commit(start)

    def backlog(self) -> tuple[int, float]:
        """Return the number of jobs that wait in memory, and the seconds of the oldest."""
        return len(self._waiting), monotonic() - self._waiting[0] if self._waiting else 0.0

    async def drain(self) -> None:
        """Wait for the jobs that were accepted, up to the drain timeout."""
        if self._worker and self._settings:
            await self._worker.wait(self._settings.job_drain_timeout_s)

    async def _start(self, message: Message) -> None:
        if self._worker is None:
            logger.error("job %s is lost: the process has closed its resources", message.name)
            return
        if self._count:
            self._count.add(1)
        self._waiting.append(monotonic())
        self._worker.start(self._run(self._worker, message))

    async def _run(self, worker: Worker, message: Message) -> None:
        """Run a job, and insert it with its outcome if it does not succeed."""
        try:
            async with worker.slots:
                self._waiting.popleft()
                outcome = await executor.run(message)
            if outcome.label != "succeeded":
                result = replace(
                    message,
                    delay_s=outcome.delay_s,
                    attempts=outcome.attempts,
                    deliveries=outcome.deliveries,
                )
                await executor.insist(statements.ADD, **result.row(outcome.state, outcome.error))
        finally:
            if self._count:
                self._count.add(-1)

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
