"""Concurrency: several tasks at once, computations in processes, blocking calls in threads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.concurrency import threads
from app.core.concurrency.partial import Part, gather
from app.core.concurrency.processes import ProcessDied, processes, run_in_process
from app.core.concurrency.threads import run_in_thread
from app.core.settings.concurrency import ConcurrencySettings

__all__ = [
    "Part",
    "ProcessDied",
    "gather",
    "pools",
    "run_in_process",
    "run_in_thread",
]


@asynccontextmanager
async def pools(settings: ConcurrencySettings, *, cpu_processes: int) -> AsyncIterator[None]:
    """Open both pools for the block; processes and threads start at their first call."""
    processes.slots.open(size=cpu_processes, backlog=settings.cpu_backlog)
    threads.slots.open(size=settings.blocking_threads, backlog=settings.blocking_backlog)
    try:
        yield
    finally:
        threads.slots.close()
        await processes.close()
