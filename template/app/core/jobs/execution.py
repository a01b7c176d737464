"""Runs claimed jobs, and stores their outcomes.

A claim is a lease, which this process extends while the job runs. If the process dies, the lease
ends, and another process claims the job.
"""

import asyncio
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from logging import getLogger
from time import monotonic
from typing import Any

from sqlalchemy.pool import PoolProxiedConnection

from app.core.database import PreparedWrite, Row
from app.core.database.engine import Around, Database, Run, database, settle
from app.core.http.problems import Unavailable
from app.core.jobs import statements
from app.core.jobs.declaration import declared
from app.core.jobs.outcome import MAX_DELIVERIES, Delivery, Outcome, find, outcome_of
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
        self._held: dict[Delivery, float] = {}
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._succeeded: list[Delivery] = []
        self._turn = asyncio.Lock()
        # The task that stores `_succeeded`, while it waits for its turn.
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
        self._settings, self._database, self._stops = settings, source, False
        self._turn, self._next = asyncio.Lock(), None
        upkeep = asyncio.create_task(self._keep_up(settings.job_lease_s))
        try:
            yield
        finally:
            upkeep.cancel()
            with suppress(asyncio.CancelledError):
                await upkeep
            with suppress(Unavailable):
                await self._store_counts()
            self._stops = False

    async def execute(self, delivery: Delivery) -> None:
        """Run a claimed job, and store its outcome."""
        self._hold(delivery)
        try:
            await self._store(delivery, await self.run(delivery))
        finally:
            self._held.pop(delivery, None)

    async def claim(self, limit: int) -> list[Delivery]:
        """Claim up to `limit` jobs that are due; none while a job has its last delivery.

        Raises:
            Unavailable: when the database does not answer in time.
        """
        if any(held.deliveries >= MAX_DELIVERIES for held in self._held):
            return []
        values = {"limit": limit, "lease_s": self.lease_s, "is_idle": not self._held}
        rows = await self.fetch(statements.CLAIM, self._commit, **values)
        claimed = [Delivery(**row) for row in rows]
        for delivery in claimed:
            self._hold(delivery)
        return claimed

    async def run(self, delivery: Delivery) -> Outcome:
        """Run a job in a context of its own, with the id of its request; return its outcome."""
        if self._stops:
            return outcome_of(delivery, asyncio.CancelledError(), stops=True)
        context = Context()
        context.run(request_id.begin, delivery.request_id)
        name = f"{delivery.name} {delivery.request_id}".rstrip()
        task = asyncio.create_task(self._run(delivery), name=name, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            outcome = await task
        except asyncio.CancelledError as error:
            if not self._stops:  # The event loop ends.
                raise
            return outcome_of(delivery, error, stops=True)
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
        late = [task for task in self._tasks if not task.done()]
        if late:
            names = ", ".join(task.get_name() for task in late)
            logger.error("Cancelled, because they did not end in time: %s", names)
        for task in late:
            task.cancel()
        asyncio.get_running_loop().call_later(RELEASE_TIMEOUT_S, _end_process, late)

    @property
    def lease_s(self) -> float:
        return self._opened.job_lease_s

    async def fetch(
        self, statement: PreparedWrite, around: Around | None = None, **values: Any
    ) -> list[Row]:
        """Run a statement of the queue; Unavailable if the database does not answer in time."""
        try:
            async with asyncio.timeout(STATEMENT_TIMEOUT_S):
                return await self._database.fetch(statement, values, around)
        except TimeoutError:
            raise Unavailable("The database did not answer in time.") from None

    @property
    def _opened(self) -> JobsSettings:
        if self._settings is None:
            raise RuntimeError("Jobs need `async with lifecycle.resources(...)`.")
        return self._settings

    async def _commit(self, run: Run, connection: PoolProxiedConnection) -> list[Row]:
        """Commit a claim after its rows have arrived.

        A database that hung may run a claim when this process has stopped to wait for it. Without
        the COMMIT, such a claim has no effect.
        """
        try:
            await self._database.command(connection, "BEGIN")
            claimed = await run()
            await self._database.command(connection, "COMMIT")
        except BaseException:
            await settle(connection, "ROLLBACK")
            raise
        return claimed

    async def _run(self, delivery: Delivery) -> Outcome:
        error: BaseException | None = None
        deadline: asyncio.Timeout | None = None
        try:
            job, arguments = find(delivery)
            limit_s = job.deadline_s or self._opened.job_time_limit_s
            async with asyncio.timeout(limit_s) as deadline:
                await job.function(**arguments)
        # Also SystemExit, with which a task would end the event loop.
        except BaseException as raised:
            error = raised
            if isinstance(error, TimeoutError) and deadline and deadline.expired():
                error.add_note(f"The deadline of the job is {limit_s:g} s.")
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        outcome = outcome_of(delivery, error, stops=self._stops, jitter=jitter)
        if outcome.label == "retried":
            reason = (outcome.error or "").rstrip().rpartition("\n")[2]
            message = "job %s runs again in %.1f s: %s"
            logger.warning(message, delivery.name, outcome.delay_s, reason)
        elif outcome.label == "failed":
            logger.error("job %s failed: %s", delivery.name, delivery.id, exc_info=error)
        return outcome

    def _hold(self, delivery: Delivery) -> None:
        job = declared.get(delivery.name)
        limit_s = (job and job.deadline_s) or self._opened.job_time_limit_s
        self._held[delivery] = monotonic() + limit_s + GRACE_S

    async def _store(self, delivery: Delivery, outcome: Outcome) -> None:
        """Store the outcome, unless another process has the job by now."""
        if outcome.label == "succeeded" and delivery.key is None:
            self._succeeded.append(delivery)
            if self._next is None:
                self._next = asyncio.create_task(self._store_succeeded())
            # All of them end at once, so that the next claim has as many jobs.
            await asyncio.shield(self._next)
            return
        job = declared.get(delivery.name)
        # The key of a periodic job is its interval, and must outlast it.
        keep_s = 2 * job.every.total_seconds() if job and job.every else KEEP_KEY_S
        await self._insist(
            statements.END,
            id=delivery.id,
            attempts=delivery.attempts,
            deliveries=delivery.deliveries,
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
            await self._insist(statements.SUCCEED, **_columns(ended))

    async def _insist(self, statement: PreparedWrite, **values: Any) -> None:
        """Try to store an outcome until the leases end; then the jobs run again."""
        deadline_s = monotonic() + self.lease_s
        while True:
            try:
                await self.fetch(statement, **values)
                return
            except Unavailable as error:
                if monotonic() > deadline_s:
                    logger.error("The outcome of a job is lost, and it runs again: %s", error)
                    return
            await asyncio.sleep(RETRY_S)

    async def _keep_up(self, lease_s: float) -> None:
        extend_s = monotonic()
        while True:
            await asyncio.sleep(min(RETRY_S, lease_s / 3))
            for late in [each for each, end_s in self._held.items() if monotonic() > end_s]:
                del self._held[late]
                logger.error("job %s runs on after its deadline: %s", late.name, late.id)
            try:
                if monotonic() > extend_s and self._held:
                    held = _columns([*self._held])
                    await self.fetch(statements.EXTEND, **held, lease_s=lease_s)
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


def _end_process(tasks: Sequence[asyncio.Task[Outcome]]) -> None:
    if names := ", ".join(task.get_name() for task in tasks if not task.done()):
        logger.critical("The process ends, because jobs go on after they were cancelled: %s", names)
        os._exit(1)


def _columns(deliveries: Sequence[Delivery]) -> dict[str, Any]:
    return {
        "ids": [each.id for each in deliveries],
        "attempts": [each.attempts for each in deliveries],
        "deliveries": [each.deliveries for each in deliveries],
    }


executor = Executor()
