"""Waits for the background jobs that a test enqueues."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import func, select, update

TIMEOUT_S = 30


class Jobs:
    """The jobs that this process has enqueued since the beginning of the test.

    Args:
        keeps_rows: whether the table keeps each job that has succeeded, and not only one with a
            key. Then a job without a row has not reached a worker yet.
    """

    def __init__(self, *, keeps_rows: bool = False) -> None:
        self._keys: set[tuple[str, str]] = set()
        self._without_row = "waiting" if keeps_rows else "done"
        # The retries that `done` has made due.
        self._hurried: set[tuple[Any, int]] = set()

    @contextmanager
    def recorded(self) -> Iterator["Jobs"]:
        """Record the jobs of the block."""
        from app.core import jobs

        accept = vars(jobs)["engine"].accept

        async def recording(session: Any, message: Any) -> None:
            await accept(session, message)

            async def record() -> None:
                if not message.delay_s:
                    self._keys.add((message.name, message.key or str(message.id)))

            if session is None:
                await record()
            else:
                session.after_commit(record)

        with patch("app.core.jobs.engine.accept", recording):
            yield self

    async def done(self) -> None:
        """Wait until the jobs without a delay have succeeded; fail with the errors of the others.

        Jobs that fail run again at once, `retries` times.
        """
        late: list[str] = []
        try:
            async with asyncio.timeout(TIMEOUT_S):
                while late := await self._late():
                    await asyncio.sleep(0.05)
        except TimeoutError:
            late.insert(0, f"These jobs have not succeeded within {TIMEOUT_S} s:")
            pytest.fail("\n".join(late), pytrace=False)

    async def _late(self) -> list[str]:
        """Return the jobs that have not succeeded, with their last errors."""
        from app.core.database import ReadSession, WriteSession
        from app.core.jobs import drain
        from app.core.jobs.table import background_job as job

        # For the jobs in the memory of this process.
        await drain()
        before = [*self._keys]
        columns = (job.c.id, job.c.name, job.c.key, job.c.state, job.c.error, job.c.attempts)
        rows = await ReadSession().rows(select(*columns))
        if failed := [f"{row.name}: {row.error}" for row in rows if row.state == "dead"]:
            pytest.fail("\n".join(failed), pytrace=False)
        for row in rows:
            if row.error and (row.id, row.attempts) not in self._hurried:
                self._hurried.add((row.id, row.attempts))
                # Not while it runs.
                waits = job.c.id == row.id, job.c.state == "waiting", job.c.deliveries == 0
                async with WriteSession() as session:
                    await session.execute(update(job).where(*waits).values(due_at=func.now()))
        found = {(row.name, row.key or str(row.id)): (row.state, row.error) for row in rows}
        # A job that was enqueued after `before` may have a row that is younger than `rows`.
        known = dict.fromkeys(before, (self._without_row, None)) | found
        awaited = {key: known.get(key, ("waiting", None)) for key in self._keys}
        return [
            f"{name}: {error}" for (name, _), (state, error) in awaited.items() if state != "done"
        ]
