"""Jobs in the web process, after the response: nothing else to run.

Like FastAPI's `BackgroundTasks`, but it can be called from anywhere, runs a bounded number at once
and is waited for when the worker stops. A worker that is killed loses what it had accepted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import lru_cache
from logging import getLogger
from typing import ParamSpec

from app.settings import get_settings

P = ParamSpec("P")

logger = getLogger(__name__)

_accepted: set[asyncio.Task[None]] = set()


def job(function: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Declare an async function that `enqueue` may run."""
    return function


async def enqueue(
    function: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Run the job soon, in this process; its errors are logged."""
    task = asyncio.create_task(_run(function, *args, **kwargs))
    # The event loop keeps only weak references to tasks.
    _accepted.add(task)
    task.add_done_callback(_accepted.discard)


async def drain() -> None:
    """Wait for the accepted jobs, and cancel those that outlast `job_drain_timeout_s`."""
    if not _accepted:
        return
    _, late = await asyncio.wait(_accepted, timeout=get_settings().job_drain_timeout_s)
    for task in late:
        task.cancel()
    if late:
        logger.error("%d jobs did not end in time and were cancelled", len(late))
        await asyncio.wait(late)


async def _run(
    function: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    name = getattr(function, "__qualname__", repr(function))
    try:
        async with _slots(), asyncio.timeout(get_settings().job_time_limit_s):
            await function(*args, **kwargs)
    except Exception:
        logger.exception("job %s failed", name)


@lru_cache
def _slots() -> asyncio.Semaphore:
    return asyncio.Semaphore(get_settings().job_concurrency)
