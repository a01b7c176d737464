"""Jobs in the service's own database: `python -m app worker` runs them (`postgres_worker`)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.jobs.message import store as accept
from app.core.settings.jobs import JobsSettings

__all__ = ["accept", "checks", "drain", "opened"]


@asynccontextmanager
async def opened(settings: JobsSettings) -> AsyncIterator[None]:
    """Open nothing: the database accepts the jobs."""
    yield


async def drain() -> None:
    """Do nothing: the worker is another process."""


async def checks() -> dict[str, str]:
    """Return no state for `/readyz`, which checks the database itself."""
    return {}
