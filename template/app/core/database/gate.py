"""Admission to the connection pool: whoever waits longest is next, and nobody waits for itself.

A pool gives a connection that comes back to whoever asks first, not to whoever waits longest, and
the unlucky wait hundreds of milliseconds. Behind this gate the pool always has one to give.
"""

import asyncio
from collections import deque
from contextvars import ContextVar
from types import TracebackType

from app.core.http.problems import Busy


class Gate:
    """As many slots as the pool has connections, first come, first served."""

    def __init__(self, size: int, *, timeout_s: float) -> None:
        self._free = size
        self._timeout_s = timeout_s
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def acquire(self) -> None:
        """Wait for a slot.

        Raises:
            Busy: when there is none in time.
            RuntimeError: when the caller's own transaction holds one.
        """
        self.refuse_holder()
        # While somebody waits no slot is free: `release` hands it over.
        if self._free:
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        # Not `asyncio.timeout` and `asyncio.Semaphore`, which cost three times as much.
        timer = loop.call_later(self._timeout_s, self._give_up, turn)
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.exception() is None:
                # The slot came in the moment of the cancellation.
                self.release()
            elif turn in self._waiting:
                self._waiting.remove(turn)
            raise
        finally:
            timer.cancel()

    def _give_up(self, turn: asyncio.Future[None]) -> None:
        if not turn.done():
            self._waiting.remove(turn)
            turn.set_exception(Busy("All database connections are in use."))

    def refuse_holder(self) -> None:
        """Let nobody who has a connection wait for another: enough such would wait for each other.

        Raises:
            RuntimeError: when the caller's own transaction holds a slot.
        """
        holder = _holder.get()
        if holder is not None and holder.holds(self):
            raise RuntimeError(
                "This task holds a connection in its WriteSession: read through that session, "
                "it may stand wherever a ReadSession is wanted."
            )

    def release(self) -> None:
        """Give the slot to whoever waits longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


class Slot:
    """The slot of a transaction: taken when it first needs a connection, held until it ends."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._held = False

    def holds(self, gate: Gate) -> bool:
        return self._held and self._gate is gate

    async def take(self) -> None:
        """Take the slot, unless it is held already.

        Raises:
            Busy: when there is none in time.
        """
        if not self._held:
            await self._gate.acquire()
            self._held = True
            _holder.set(self)

    def release(self) -> None:
        """Give the slot back, if it is held."""
        if self._held:
            self._held = False
            self._gate.release()


# The transaction of this task that took a slot last; tasks that it starts inherit it.
_holder: ContextVar[Slot | None] = ContextVar("holder", default=None)
