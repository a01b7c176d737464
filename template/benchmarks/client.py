"""The client, in a process of its own: it sends a request again and again on open connections."""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

# In a request: another text each time. As long as `os.urandom(16).hex()`.
RANDOM = "0123456789abcdef" * 2
# Requests of one connection in a burst.
BURST = 4
_TIMEOUT_S = 60
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_runner = asyncio.Runner()
_open: dict[int, list[Connection]] = {}


@dataclass
class Answers:
    """The answers of one service, and the time that they took together."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    async def ask(self, connection: Connection, payload: bytes) -> None:
        """Send a few requests, each after the answer to the last."""
        reader, writer = connection
        for _ in range(BURST):
            request = payload.replace(RANDOM.encode(), os.urandom(16).hex().encode())
            started = time.perf_counter()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            await reader.readexactly(int(length[1]) if length else 0)
            self.latencies_s.append(time.perf_counter() - started)
            self.statuses[int(head[9:12])] += 1


def send(targets: Sequence[tuple[int, bytes]], turns: int, clients: int) -> list[Answers]:
    """Send bursts of a request to each target, a port and a payload, in turn; runs in the client.

    The targets go first and last alternately.
    """
    return _runner.run(_send(targets, turns, clients))


async def _send(targets: Sequence[tuple[int, bytes]], turns: int, clients: int) -> list[Answers]:
    answers = [Answers() for _ in targets]
    for port, _ in targets:
        connections = _open.setdefault(port, [])
        while len(connections) < clients:
            connections.append(await asyncio.open_connection("127.0.0.1", port, limit=2**20))
    order = list(zip(targets, answers, strict=True))
    for _ in range(turns):
        for (port, payload), found in order:
            started = time.perf_counter()
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.gather(*(found.ask(each, payload) for each in _open[port]))
            found.seconds += time.perf_counter() - started
        order.reverse()
    return answers
