"""Enqueues the jobs of `every`, and forgets the keys of jobs that ended long ago.

Several processes do this. The key of a periodic job is its interval, so that the database accepts
one job for each. No interval is enqueued while an earlier one waits or runs, so that they do not
pile up.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from logging import getLogger
from time import monotonic
from uuid import uuid4

from app.core.database import database
from app.core.jobs import statements
from app.core.jobs.declaration import declared
from app.core.jobs.message import Message, store

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
        await asyncio.wait([task])


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
                await database.fetch(statements.FORGET, {})
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
    (now,) = await database.fetch(statements.NOW, {})
    for job, interval_s in periodic:
        number = int(now["now_s"] // interval_s)
        if enqueued.get(job.name) == number:
            continue
        key = f"@every {interval_s:g} s: {number}"
        if not await database.fetch(statements.WAITS, {"name": job.name, "key": key}):
            await store(None, Message(uuid4(), job.name, job.version, job.dump(), "", key))
            enqueued[job.name] = number
