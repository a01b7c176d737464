"""Waits for the background jobs that a test enqueues."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest
from sqlalchemy import select

TIMEOUT_S = 30


class Jobs:
    """The jobs that this process has enqueued since the beginning of the test."""

    def __init__(self) -> None:
        self._keys: list[tuple[str, str]] = []

    @contextmanager
    def recorded(self) -> Iterator["Jobs"]:
        """Record the jobs of the block, and keep their rows by a key."""
        from app.core import jobs

        accept = vars(jobs)["engine"].accept

        async def recording(session: Any, message: Any) -> None:
            key = message.key or str(message.id)
            await accept(session, replace(message, key=key))

            async def record() -> None:
                if not message.delay_s:
                    self._keys.append((message.name, key))

            if session is None:
                await record()
            else:
                session.after_commit(record)

        with patch("app.core.jobs.engine.accept", recording):
            yield self

    async def done(self) -> None:
        """Wait until the jobs without a delay have succeeded; fail with the error of one."""
        from app.core.database import ReadSession
        from app.core.jobs.table import background_job as job

        statement = select(job.c.name, job.c.key, job.c.state, job.c.error)
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                rows = await ReadSession().rows(statement)
                if errors := [f"{row.name}: {row.error}" for row in rows if row.error]:
                    pytest.fail("\n".join(errors), pytrace=False)
                succeeded = {(row.name, row.key) for row in rows if row.state == "done"}
                if succeeded.issuperset(self._keys):
                    return
                await asyncio.sleep(0.05)
