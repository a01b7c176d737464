"""FIFO admission to the connection pool; a task that holds a connection must not wait for another.

SQLAlchemy's pool is not fair: a new request can take a returned connection before the tasks that
already wait for one, some of which then wait hundreds of milliseconds. A task that has passed this
gate always finds a free connection in the pool.
"""

import asyncio
from collections import deque
from contextvars import ContextVar
from time import perf_counter

from app.core.http.deadlines import exceeded, remaining_s
from app.core.http.problems import Busy, Unavailable
from app.core.telemetry.activity import add_pool_wait


class Gate:
    """One slot for each connection of the pool, given out in the order of the requests."""

    def __init__(self, size: int, *, timeout_s: float) -> None:
        self.size = size
        self._free = size
        self._timeout_s = timeout_s
        # How many slots were returned.
        self.released = 0
        # Why no slot is given out, while there is a reason.
        self.refusal = ""
        # With the times at which they began to wait.
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    @property
    def in_use(self) -> int:
        return self.size - self._free

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def longest_wait_s(self) -> float:
        """The time for which the first of the waiting tasks has waited so far."""
        return perf_counter() - self._waiting[0][1] if self._waiting else 0.0

    async def acquire(self) -> None:
        """Wait for a slot.

        Raises:
            Busy: when no slot is free in time.
            DeadlineExceeded: when the request has no time left.
            Unavailable: while `refusal` says why.
            RuntimeError: when this task has a slot for its transaction.
        """
        self.refuse_holder()
        if self.refusal:
            raise Unavailable(self.refusal)
        # A free slot means that no task waits: `release` hands slots over.
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn = loop.create_future()
        waiting = turn, perf_counter()
        # Not `asyncio.timeout` and `asyncio.Semaphore`, which cost three times as much.
        limit_s = min(self._timeout_s, remaining_s())
        timer = loop.call_later(limit_s, self._time_out, waiting)
        self._waiting.append(waiting)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                # `release` gave this task the slot just before it was cancelled.
                self.release()
            elif waiting in self._waiting:
                self._waiting.remove(waiting)
            raise
        finally:
            timer.cancel()
            add_pool_wait(perf_counter() - waiting[1])

    def _time_out(self, waiting: tuple[asyncio.Future[None], float]) -> None:
        turn, _ = waiting
        if not turn.done():
            self._waiting.remove(waiting)
            turn.set_exception(exceeded() or Busy("All database connections are in use."))

    def refuse_holder(self) -> None:
        """Raise RuntimeError when this task has a slot for its transaction: it may deadlock."""
        slot = current_slot.get()
        if slot is not None and slot.gate is self and (slot.is_held or slot.is_reserved):
            raise RuntimeError(
                "This task's WriteSession has the only connection: read through that session. "
                "A WriteSession is accepted wherever a ReadSession is."
            )

    def release(self) -> None:
        """Hand the slot to the task that has waited longest, or free it."""
        self.released += 1
        while self._waiting:
            turn, _ = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()


class Slot:
    """The slot of one transaction, held from its first statement to its end."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.is_held = False
        self.is_reserved = False

    def reserve(self) -> None:
        """Refuse other slots to this task from now on, before the first statement as after it."""
        self.is_reserved = True
        current_slot.set(self)

    async def take(self) -> None:
        """Take a slot of the gate, unless this transaction holds one; errors as from `acquire`."""
        if not self.is_held:
            self.is_reserved = False
            await self.gate.acquire()
            self.is_held = True
            current_slot.set(self)

    def release(self) -> None:
        """Return the slot, if it is held, and allow others."""
        self.is_reserved = False
        if self.is_held:
            self.is_held = False
            self.gate.release()


# The last transaction of this task that took or reserved a slot; tasks that it starts inherit it.
current_slot: ContextVar[Slot | None] = ContextVar("slot", default=None)
