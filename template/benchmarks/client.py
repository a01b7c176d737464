"""The client, in a process of its own: it sends a request again and again on open connections."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import httptools

# In a request: another text each time. As long as `os.urandom(16).hex()`.
RANDOM = "0123456789abcdef" * 2
# Requests of one connection in a burst.
BURST = 4
_TIMEOUT_S = 60


@dataclass
class Answers:
    """The answers of one service, and the time that they took together."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.burst: Burst | None = None
        self.sent_at = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.burst:
            self.burst.answered(self)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.burst and not self.burst.done.done():
            self.burst.done.set_exception(ConnectionError("The service closed a connection."))


class Burst:
    """As many requests as `count`, each sent when its connection has the answer to the last."""

    def __init__(self, payload: bytes, count: int, answers: Answers) -> None:
        self.payload = payload
        self.is_random = RANDOM.encode() in payload
        self.unsent = self.unanswered = count
        self.answers = answers
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def send(self, connection: Connection) -> None:
        payload = self.payload
        if self.is_random:
            payload = payload.replace(RANDOM.encode(), os.urandom(16).hex().encode())
        self.unsent -= 1
        connection.burst = self
        connection.sent_at = time.perf_counter()
        connection.transport.write(payload)

    def answered(self, connection: Connection) -> None:
        self.answers.latencies_s.append(time.perf_counter() - connection.sent_at)
        self.answers.statuses[connection.parser.get_status_code()] += 1
        self.unanswered -= 1
        if self.unsent:
            self.send(connection)
        elif not self.unanswered:
            self.done.set_result(None)


_runner = asyncio.Runner()
_open: dict[int, list[Connection]] = {}


def send(targets: Sequence[tuple[int, bytes]], turns: int, clients: int) -> list[Answers]:
    """Send bursts of a request to each target, a port and a payload, in turn; runs in the client.

    The targets go first and last alternately.
    """
    return _runner.run(_send(targets, turns, clients))


async def _send(targets: Sequence[tuple[int, bytes]], turns: int, clients: int) -> list[Answers]:
    loop = asyncio.get_running_loop()
    answers = [Answers() for _ in targets]
    for port, _ in targets:
        connections = _open.setdefault(port, [])
        while len(connections) < clients:
            _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
            connections.append(connection)
    order = list(zip(targets, answers, strict=True))
    for _ in range(turns):
        for (port, payload), found in order:
            started = time.perf_counter()
            burst = Burst(payload, BURST * clients, found)
            for connection in _open[port]:
                burst.send(connection)
            await asyncio.wait_for(burst.done, _TIMEOUT_S)
            found.seconds += time.perf_counter() - started
        order.reverse()
    return answers
