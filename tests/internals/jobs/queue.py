"""What the tests of jobs ask the queue."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sqlalchemy import func, select, text, update

from app.core.database import ReadSession, database
from app.core.jobs import Job, statements
from app.core.jobs.execution import executor
from app.core.jobs.message import Message
from app.core.jobs.table import background_job, background_job_count


async def rows() -> list[dict[str, Any]]:
    """Return all jobs of the table, in the order in which they were enqueued."""
    statement = select(*background_job.c).order_by(background_job.c.created_at)
    return [dict(row._mapping) for row in await ReadSession().rows(statement)]


async def states() -> list[str]:
    return sorted([row["state"] for row in await rows()])


async def counts() -> dict[str, int]:
    statement = select(background_job_count.c.outcome, background_job_count.c.count)
    return {row[0]: row[1] for row in await ReadSession().rows(statement)}


async def claim(lease_s: float = 30, limit: int = 1) -> list[Message]:
    """Claim due jobs as a worker does."""
    found = await executor.fetch(statements.CLAIM, limit=limit, lease_s=lease_s, is_idle=True)
    return [Message(**row) for row in found]


async def make_due() -> None:
    """Let the time pass until all waiting jobs are due."""
    async with database.engine.begin() as connection:
        await connection.execute(update(background_job).values(due_at=func.now()))


async def run(sql: str) -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text(sql))


async def until(is_done: Callable[[], Awaitable[bool]], timeout_s: float = 60) -> None:
    async with asyncio.timeout(timeout_s):
        while not await is_done():
            await asyncio.sleep(0.02)


def message_of(job: Job[Any], arguments: str, **changes: Any) -> Message:
    """Return a message that another release, or another program, may have written."""
    values: dict[str, Any] = {"name": job.name, "version": job.version, "request_id": ""}
    return Message(arguments=arguments, **values | changes)
