"""Enqueues the jobs of `every`, and forgets the keys of jobs that ended long ago.

Several processes do this. The key of a periodic job is its interval, so that the database accepts
one job for each. No interval is enqueued while an earlier one waits or runs, so that they do not
pile up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from logging import getLogger
from time import monotonic
from uuid import uuid4

from app.core.database import ReadSession, WriteSession
from app.core.jobs import statements
from app.core.jobs.declaration import Job, declared
from app.core.jobs.message import Message

TICK_S = 1.0
FORGET_S = 60.0

logger = getLogger(__name__)


@asynccontextmanager
async def running(tick_s: float = TICK_S) -> AsyncIterator[None]:
    """Enqueue periodic jobs until the block ends."""
    task = asyncio.create_task(_run(tick_s))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _run(tick_s: float) -> None:
    # The last interval that is enqueued, by the name of the job.
    enqueued: dict[str, int] = {}
    forget_s = monotonic()
    problem = ""
    while True:
        try:
            await _enqueue(enqueued)
            if monotonic() >= forget_s:
                forget_s = monotonic() + FORGET_S
                async with WriteSession() as session:
                    await session.autocommit(statements.FORGET)
            problem = ""
        except Exception as error:
            # Once for each outage.
            if repr(error) != problem:
                logger.warning("No periodic jobs are enqueued: %r", error)
            problem = repr(error)
        await asyncio.sleep(tick_s)


async def _enqueue(enqueued: dict[str, int]) -> None:
    periodic = [(job, job.every.total_seconds()) for job in declared.values() if job.every]
    if not periodic:
        return
    now = await ReadSession().fetch_one(statements.NOW)
    assert now is not None
    for job, interval_s in periodic:
        number = int(now["now_s"] // interval_s)
        if enqueued.get(job.name) != number:
            message = _message(job, f"@every {interval_s:g} s: {number}")
            if await ReadSession().fetch_one(statements.WAITS, name=job.name, key=message.key):
                continue
            async with WriteSession() as session:
                await session.autocommit(statements.ADD, **message.row())
            enqueued[job.name] = number


def _message(job: Job[[]], key: str) -> Message:
    return Message(uuid4(), job.name, job.version, job.dump(), request_id="", key=key)
