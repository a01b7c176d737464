"""Jobs in the web process, after the response: nothing else to run.

Like FastAPI's `BackgroundTasks`, but it can be called from anywhere, runs a bounded number at once
and is waited for when the worker stops. A worker that is killed loses what it had accepted.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from functools import lru_cache
from logging import getLogger
from typing import ParamSpec

from app.core.problems import Unavailable
from app.settings import get_settings

P = ParamSpec("P")

logger = getLogger(__name__)

RETRY_AFTER_S = 1.0

_jobs: set[Callable[..., Awaitable[None]]] = set()
_accepted: set[asyncio.Task[None]] = set()


def job(function: Callable[P, Awaitable[None]]) -> Callable[P, Awaitable[None]]:
    """Declare an async function that `enqueue` may run."""
    _jobs.add(function)
    return function


async def enqueue(
    function: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    """Run the job soon, in this process; its errors are logged.

    Raises:
        TypeError: when the function was not declared with `job`.
    """
    if function not in _jobs:
        raise TypeError(f"{function!r} is not declared with @job")
    # In a context of its own: what it does is not part of the request.
    task = asyncio.create_task(_run(function, *args, **kwargs), context=Context())
    # The event loop keeps only weak references to tasks.
    _accepted.add(task)
    task.add_done_callback(_accepted.discard)


async def drain() -> None:
    """Wait for the accepted jobs, and cancel those that outlast `job_drain_timeout_s`."""
    try:
        async with asyncio.timeout(get_settings().job_drain_timeout_s):
            # A job may have enqueued another.
            while _accepted:
                await asyncio.wait(_accepted)
    except TimeoutError:
        late = list(_accepted)
        logger.error("%d jobs did not end in time and are cancelled", len(late))
        for task in late:
            task.cancel()
        await asyncio.wait(late, timeout=1)


async def _run(
    function: Callable[P, Awaitable[None]], /, *args: P.args, **kwargs: P.kwargs
) -> None:
    name = getattr(function, "__qualname__", repr(function))
    try:
        async with _slots(), asyncio.timeout(get_settings().job_time_limit_s):
            while True:
                try:
                    return await function(*args, **kwargs)
                except Unavailable as error:
                    # Requests come first when connections are short; a job can wait.
                    logger.warning("job %s runs again in %g s: %s", name, RETRY_AFTER_S, error)
                    await asyncio.sleep(RETRY_AFTER_S)
    except Exception:
        logger.exception("job %s failed", name)


@lru_cache
def _slots() -> asyncio.Semaphore:
    return asyncio.Semaphore(get_settings().job_concurrency)
