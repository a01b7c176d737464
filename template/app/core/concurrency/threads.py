"""Run libraries that block in threads, so that the event loop answers other requests meanwhile.

`run_in_thread` is for calls that wait: a driver or an SDK without `async`. A computation holds
Python's lock in a thread as well: use `run_in_process`.
"""

import asyncio
import math
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from anyio import CapacityLimiter, to_thread

from app.core.concurrency.slots import Slots, name_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

thread_slots = Slots("thread")
# The slots bound the threads.
_limiter = CapacityLimiter(math.inf)


async def run_in_thread(function: Callable[[*Ts], T], *args: *Ts, deadline_s: float = 10.0) -> T:
    """Run the function in a thread, with the context of this task, and return its result.

        receipt = await run_in_thread(client.fetch_receipt, order_id, deadline_s=3)

    A call waits at most `deadline_s` for a free thread, and runs at most as long. No thread can be
    stopped: then, or when the task is cancelled, only the wait ends. The thread goes on, and keeps
    its place. Give the library a time limit of its own.

    Raises:
        Busy: when too many calls wait, or no thread is free in time.
        TimeoutError: when the function takes too long.
        Exception: any of the function.
    """
    await thread_slots.acquire(deadline_s)
    running = asyncio.ensure_future(to_thread.run_sync(function, *args, limiter=_limiter))
    running.add_done_callback(lambda _: thread_slots.release())
    done, _ = await asyncio.wait({running}, timeout=deadline_s)
    if not done:
        late = f"{name_of(function)} took longer than {deadline_s:g} s; its thread goes on."
        raise TimeoutError(late)
    return running.result()
