"""Run libraries that block in threads, so that the event loop answers other requests meanwhile.

`run_in_thread` is for calls that wait: a driver or an SDK without `async`. A computation holds
Python's lock in a thread as well: use `run_in_process`.
"""

import asyncio
import math
from collections.abc import Callable
from logging import getLogger
from typing import TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

from app.core.concurrency.slots import Slots, name_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = getLogger(__name__)
thread_slots = Slots("thread")
# The slots bound the threads.
_limiter = CapacityLimiter(math.inf)


async def run_in_thread(function: Callable[[*Ts], T], *args: *Ts, deadline_s: float = 10.0) -> T:
    """Run the function in a thread, with the context of this task, and return its result.

        receipt = await run_in_thread(client.fetch_receipt, order_id, deadline_s=3)

    `deadline_s` limits the wait for a free thread and the run together. No thread can be stopped:
    then, or when the task is cancelled, the caller goes on. The thread goes on as well, and keeps
    its place; its error is logged. Give the library a time limit of its own.

    Raises:
        Busy: when too many calls wait, or no thread is free in time.
        TimeoutError: when the function does not end in time.
        Exception: the error of the function.
    """
    clock_s = asyncio.get_running_loop().time
    ends_s = clock_s() + deadline_s
    await thread_slots.acquire(deadline_s)
    running = asyncio.ensure_future(to_thread.run_sync(function, *args, limiter=_limiter))
    is_awaited = True

    def end(_: asyncio.Task[T]) -> None:
        thread_slots.release()
        error = None if running.cancelled() else running.exception()
        if error and not is_awaited:
            logger.error("%s failed after its caller went on", name_of(function), exc_info=error)

    running.add_done_callback(end)
    done: set[asyncio.Task[T]] = set()
    try:
        done, _ = await asyncio.wait({running}, timeout=max(0.0, ends_s - clock_s()))
    finally:
        is_awaited = bool(done)
    if not done:
        late = f"{name_of(function)} did not end within {deadline_s:g} s; its thread goes on."
        raise TimeoutError(late)
    return running.result()
