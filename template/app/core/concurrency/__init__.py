"""Concurrency: several tasks together, computations in processes, blocking calls in threads."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.concurrency.partial import Part, gather
from app.core.concurrency.processes import ProcessDied, process_pool, run_in_process
from app.core.concurrency.threads import run_in_thread, thread_slots

__all__ = ["Part", "ProcessDied", "gather", "pools", "run_in_process", "run_in_thread"]


@asynccontextmanager
async def pools(*, cpu_processes: int, threads: int) -> AsyncIterator[None]:
    """Open both pools for the block; processes and threads start at their first call."""
    process_pool.slots.open(cpu_processes)
    thread_slots.open(threads)
    try:
        yield
    finally:
        thread_slots.close()
        await process_pool.close()
