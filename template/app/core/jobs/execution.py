"""Runs claimed jobs, and stores their outcomes.

A claim is a lease, which this process extends while the job runs. If the process dies, the lease
ends, and another process claims the job.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager, suppress
from logging import getLogger
from math import inf
from time import monotonic
from typing import Any

from sqlalchemy.pool import PoolProxiedConnection

from app.core.database import Database, PreparedWrite, Row, database
from app.core.database.engine import Around, Run, settle
from app.core.http.problems import Unavailable
from app.core.jobs import statements
from app.core.jobs.declaration import deadline_s, declared
from app.core.jobs.message import Message
from app.core.jobs.outcome import Outcome, find, outcome_of
from app.core.settings.jobs import JobsSettings
from app.core.telemetry import request_id

KEEP_KEY_S = 24 * 3600.0
# Also the time until the worker notices that a database hangs.
STATEMENT_TIMEOUT_S = 5.0
RETRY_S = 1.0
# The time after its deadline for which a job keeps its lease, to clean up and to be stored.
GRACE_S = 10.0
# Time for cancelled jobs to end.
RELEASE_TIMEOUT_S = 1.0

logger = getLogger(__name__)


class Executor:
    """Runs the jobs of this process, extends their leases, and counts outcomes."""

    def __init__(self) -> None:
        self._database = database
        self._settings: JobsSettings | None = None
        self._stops = False
        # The leases of this process, with the times until which they are extended.
        self._held: dict[Message, float] = {}
        # The tasks whose jobs run.
        self._tasks: set[asyncio.Task[Any]] = set()
        self._succeeded: list[Message] = []
        self._turn = asyncio.Lock()
        # The task that stores `_succeeded`, while it waits for its turn. A turn of each job took
        # 18 us of CPU more for each.
        self._next: asyncio.Task[None] | None = None
        # Outcomes that are not in `background_job_count` yet.
        self._counts: Counter[str] = Counter()

    @asynccontextmanager
    async def opened(
        self, settings: JobsSettings, source: Database = database
    ) -> AsyncIterator[None]:
        """Extend leases and store counts until the block ends.

        `source` is the database of the queue. It has a pool of its own if jobs can hold all
        connections of the other pool: otherwise, leases may end while jobs run.
        """
        self._settings, self._database = settings, source
        self._turn, self._next = asyncio.Lock(), None
        upkeep = asyncio.create_task(self._keep_up(settings.job_lease_s))
        try:
            yield
        finally:
            upkeep.cancel()
            await asyncio.wait([upkeep])
            with suppress(Unavailable):
                await self._store_counts()
            self._stops = False

    @property
    def settings(self) -> JobsSettings:
        if self._settings is None:
            raise RuntimeError("Jobs need `async with lifecycle.resources(...)`.")
        return self._settings

    async def claim(self, limit: int) -> list[Message]:
        """Claim up to `limit` jobs that are due; none while a job has its last delivery.

        Raises:
            Unavailable: when the database does not answer in time.
        """
        if any(held.deliveries >= statements.MAX_DELIVERIES for held in self._held):
            return []
        values = {"limit": limit, "lease_s": self.settings.job_lease_s, "is_idle": not self._held}
        rows = await self.fetch(statements.CLAIM, self._commit, **values)
        claimed = [Message(**row) for row in rows]
        for message in claimed:
            self._hold(message)
        return claimed

    async def execute(self, message: Message) -> None:
        """Run a claimed job, and store its outcome; see `run`."""
        self._hold(message)
        try:
            await self._store(message, await self.run(message))
        finally:
            self._held.pop(message, None)

    async def run(self, message: Message) -> Outcome:
        """Run a job in this task and its context, with the id of its request."""
        task = asyncio.current_task()
        assert task
        task.set_name(f"{message.name} {message.request_id}".rstrip())
        request_id.begin(message.request_id)
        error: BaseException | None = None
        limit_s = deadline_s(message.name, self.settings)
        deadline = asyncio.timeout(limit_s)
        self._tasks.add(task)
        try:
            if self._stops:
                raise asyncio.CancelledError
            job, arguments = find(message)
            async with deadline:
                await job.function(**arguments)
        # Also SystemExit, with which a task would end the event loop.
        except BaseException as raised:
            is_cancelled = isinstance(raised, asyncio.CancelledError) and task.cancelling()
            if is_cancelled and not self._stops:  # The event loop ends.
                raise
            error = raised
            if isinstance(error, TimeoutError) and deadline.expired():
                error.add_note(f"The deadline of the job is {limit_s:g} s.")
        finally:
            self._tasks.discard(task)
        if task.cancelling() and not self._stops:
            # The job cancelled itself: the outcome must be stored all the same.
            while task.uncancel():
                pass
            # Before Python 3.13, a cancellation that is due stays due.
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0)
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        outcome = outcome_of(message, error, stops=self._stops, jitter=jitter)
        if outcome.label == "retried":
            reason = (outcome.error or "").rstrip().rpartition("\n")[2]
            text = "job %s runs again in %.1f s: %s"
            logger.warning(text, message.name, outcome.delay_s, reason)
        elif outcome.label == "failed":
            logger.error("job %s failed: %s", message.name, message.id, exc_info=error)
        if outcome.label != "released":
            self.count(outcome.label)
        return outcome

    def count(self, outcome: str) -> None:
        self._counts[outcome] += 1

    def cancel(self) -> None:
        """Cancel the jobs that run; they are released for other processes.

        A job that goes on ends the process, which could not end otherwise.
        """
        self._stops = True
        late = [*self._tasks]
        if late:
            logger.error("Cancelled, because they did not end in time: %s", _names(late))
        for task in late:
            task.cancel()
        asyncio.get_running_loop().call_later(RELEASE_TIMEOUT_S, self._end_process, late)

    async def fetch(
        self, statement: PreparedWrite, around: Around | None = None, **values: Any
    ) -> list[Row]:
        """Run a statement of the queue; Unavailable if the database does not answer in time."""
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                return await self._database.fetch(statement, values, around)
        except TimeoutError:
            raise Unavailable("The database did not answer in time.") from None

    async def insist(self, statement: PreparedWrite, *, for_s: float = inf, **values: Any) -> None:
        """Run a statement, again while the database is unavailable, and no longer than `for_s`."""
        until_s = monotonic() + for_s
        while True:
            try:
                await self.fetch(statement, **values)
                return
            except Unavailable as error:
                if monotonic() > until_s:
                    logger.error("The outcome of a job is lost, and it runs again: %s", error)
                    return
            await asyncio.sleep(RETRY_S)

    async def _commit(self, run: Run, connection: PoolProxiedConnection) -> list[Row]:
        """Commit a claim after its rows have arrived.

        A database that hung may run a claim when nothing waits for its rows any more. Without the
        COMMIT, such a claim has no effect.
        """
        try:
            await self._database.command(connection, "BEGIN")
            claimed = await run()
            await self._database.command(connection, "COMMIT")
        except BaseException:
            await settle(connection, "ROLLBACK")
            raise
        return claimed

    def _hold(self, message: Message) -> None:
        self._held[message] = monotonic() + deadline_s(message.name, self.settings) + GRACE_S

    async def _store(self, message: Message, outcome: Outcome) -> None:
        """Store the outcome, unless another process has the job by now."""
        if outcome.label == "succeeded" and message.key is None:
            self._succeeded.append(message)
            if self._next is None:
                self._next = asyncio.create_task(self._store_succeeded())
            # All of them end at once, so that the next claim has as many jobs.
            await asyncio.shield(self._next)
            return
        job = declared.get(message.name)
        # The key of a periodic job is its interval, and must outlast it.
        keep_s = 2 * job.every.total_seconds() if job and job.every else KEEP_KEY_S
        await self.insist(
            statements.END,
            for_s=self.settings.job_lease_s,
            **_columns([message]),
            state=outcome.state,
            next_attempts=outcome.attempts,
            next_deliveries=outcome.deliveries,
            delay_s=keep_s if outcome.state == "done" else outcome.delay_s,
            error=outcome.error,
        )

    async def _store_succeeded(self) -> None:
        """Store together the successes that came while the statement before ran."""
        async with self._turn:
            # Jobs that end in the same turn of the event loop are stored together.
            await asyncio.sleep(0)
            ended, self._succeeded, self._next = self._succeeded, [], None
            lease_s = self.settings.job_lease_s
            await self.insist(statements.SUCCEED, for_s=lease_s, **_columns(ended))

    async def _keep_up(self, lease_s: float) -> None:
        extend_s = monotonic()
        while True:
            await asyncio.sleep(min(RETRY_S, lease_s / 3))
            for late in [each for each, end_s in self._held.items() if monotonic() > end_s]:
                del self._held[late]
                logger.error("job %s runs on after its deadline: %s", late.name, late.id)
            try:
                if monotonic() > extend_s and self._held:
                    await self.fetch(statements.EXTEND, **_columns(self._held), lease_s=lease_s)
                    extend_s = monotonic() + lease_s / 3
                await self._store_counts()
            except Exception as error:
                if self._held:
                    logger.warning("Leases of %d jobs not extended: %r", len(self._held), error)

    async def _store_counts(self) -> None:
        for outcome, count in [*self._counts.items()]:
            if count:
                await self.fetch(statements.COUNT, outcome=outcome, count=count)
                self._counts[outcome] -= count

    def _end_process(self, late: Collection[asyncio.Task[Any]]) -> None:
        if names := _names(self._tasks.intersection(late)):
            text = "The process ends, because jobs go on after they were cancelled: %s"
            logger.critical(text, names)
            os._exit(1)


def _names(tasks: Collection[asyncio.Task[Any]]) -> str:
    return ", ".join(task.get_name() for task in tasks)


def _columns(messages: Collection[Message]) -> dict[str, Any]:
    return {
        "ids": [each.id for each in messages],
        "attempts": [each.attempts for each in messages],
        "deliveries": [each.deliveries for each in messages],
    }


executor = Executor()
