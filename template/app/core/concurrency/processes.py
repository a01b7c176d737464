"""Run computations in processes, so that the event loop answers other requests meanwhile.

`run_in_process` is for computations: pictures, documents, large sums. A process of the pool starts
at its first call, and inherits no socket and no signal handler of the service.
"""

import asyncio
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from app.core.concurrency import child
from app.core.concurrency.slots import Slots, name_of

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_CHILD = str(Path(__file__).with_name("child.py"))


class ProcessDied(RuntimeError):
    """The process of a call ended: it crashed, or the kernel killed it for lack of memory."""


class ProcessPool:
    """The pool of this process; opened and closed with its other resources."""

    def __init__(self) -> None:
        self.slots = Slots("process")
        self._idle: list[_Child] = []
        self._children: set[_Child] = set()

    async def run(self, function: Callable[[*Ts], T], *args: *Ts, deadline_s: float = 10.0) -> T:
        """Run the function in a process, and return its result.

            thumbnail = await run_in_process(make_thumbnail, picture, deadline_s=3)

        The process imports the module of the function: keep that module small. The event loop
        pickles the arguments, and unpickles the result: bytes are the cheapest. `deadline_s` limits
        the wait for a free process and the run together. Then, or when the task is cancelled, the
        process is killed; the next call starts another one.

        Raises:
            Busy: when too many calls wait, or no process is free in time.
            TimeoutError: when the function does not end in time.
            ProcessDied: when the process ended; other calls go on.
            Exception: the error of the function, with its traceback as a note.
        """
        call = pickle.dumps((function, args), pickle.HIGHEST_PROTOCOL)
        clock_s = asyncio.get_running_loop().time
        ends_s = clock_s() + deadline_s
        await self.slots.acquire(deadline_s)
        try:
            one = self._take()
            try:
                async with asyncio.timeout_at(ends_s):
                    returned, answer = await one.answer(call, max(0.0, ends_s - clock_s()))
            except EOFError:
                code = await self._end(one)
                reason = f"The process of {name_of(function)} ended with code {code}."
                raise ProcessDied(reason) from None
            except TimeoutError:
                self._end(one)
                late = f"{name_of(function)} did not end within {deadline_s:g} s."
                raise TimeoutError(late) from None
            except BaseException:
                self._end(one)
                raise
            self._idle.append(one)
        finally:
            self.slots.release()
        result = pickle.loads(answer)  # noqa: S301 - from a process of our own
        if not returned:
            error, text = result
            error.add_note(f"In the process:\n{text}")
            raise error
        value: T = result
        return value

    async def close(self) -> None:
        """End all processes, and accept no more calls."""
        self.slots.close()
        self._idle.clear()
        await asyncio.gather(*map(self._end, list(self._children)))

    def _take(self) -> "_Child":
        """Return an idle process, or start one, which takes milliseconds of the event loop."""
        while self._idle:
            one = self._idle.pop()
            if one.process.poll() is None:
                return one
            self._end(one)
        one = _Child()
        self._children.add(one)
        return one

    def _end(self, one: "_Child") -> asyncio.Future[int]:
        # Until then, `close` waits for it.
        ended = one.end()
        ended.add_done_callback(lambda _: self._children.discard(one))
        return ended


class _Child:
    """A process, and our side of the socket that is its standard input."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        command = [sys.executable, "-P", _CHILD, *sys.path]
        with theirs:
            # Not by uvloop, which copies the page tables of this process and leaves its sockets
            # open in the child. In a session of its own, the child gets no Ctrl-C of the terminal.
            self.process = subprocess.Popen(  # noqa: S603 - our own script
                command, stdin=theirs.fileno(), start_new_session=True
            )

    async def answer(self, call: bytes, limit_s: float) -> tuple[bool, bytearray]:
        """Send a call; return whether its function returned, and the pickled result or error.

        Raises:
            EOFError: when the process ended.
        """
        loop = asyncio.get_running_loop()
        try:
            head = child.CALL.pack(limit_s, len(call))
            await loop.sock_sendall(self._socket, head + call)
            returned, size = child.ANSWER.unpack(await self._receive(child.ANSWER.size))
            return returned, await self._receive(size)
        except OSError as error:
            raise EOFError from error

    async def _receive(self, size: int) -> bytearray:
        data = bytearray(size)
        rest = memoryview(data)
        while rest:
            received = await asyncio.get_running_loop().sock_recv_into(self._socket, rest)
            if not received:
                raise EOFError
            rest = rest[received:]
        return data

    def end(self) -> asyncio.Future[int]:
        """Kill the process; the future has its exit code."""
        self._socket.close()
        self.process.kill()
        return asyncio.get_running_loop().run_in_executor(None, self.process.wait)


process_pool = ProcessPool()
run_in_process = process_pool.run
