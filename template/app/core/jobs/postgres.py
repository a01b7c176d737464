"""Jobs in the service's own database: a job is accepted in the transaction of its write.

`python -m app worker` runs the jobs (`postgres_worker`).
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.database import WriteSession, database
from app.core.jobs import statements
from app.core.jobs.message import Message
from app.core.settings.jobs import JobsSettings


async def accept(session: WriteSession | None, message: Message) -> None:
    """Insert the job in the transaction of the session, or in one of its own."""
    values = message.row()
    if session is None:
        await database.fetch(statements.ADD, values)
    else:
        await session.write(statements.ADD, **values)


@asynccontextmanager
async def opened(settings: JobsSettings) -> AsyncIterator[None]:
    """Open nothing: the database accepts the jobs."""
    yield


async def drain() -> None:
    """Do nothing: the worker is another process."""


async def checks() -> dict[str, str]:
    """Return nothing for `/readyz`, which checks the database."""
    return {}
