"""The client, in a process of its own: it sends one request again and again on open connections."""

import asyncio
import os
import time
from collections import Counter
from dataclasses import dataclass, field

import httptools

# In a request: another text each time. As long as `os.urandom(16).hex()`.
RANDOM = "0123456789abcdef" * 2
_TIMEOUT_S = 60


@dataclass
class Slice:
    """The answers to one series of requests."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


class Connection(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.series: Series | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def send(self, series: "Series") -> None:
        self.series = series
        payload = series.payload
        if series.is_random:
            payload = payload.replace(RANDOM.encode(), os.urandom(16).hex().encode())
        self.sent_at = time.perf_counter()
        self.transport.write(payload)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        if self.series:
            latency_s = time.perf_counter() - self.sent_at
            self.series.answered(self, self.parser.get_status_code(), latency_s)

    def connection_lost(self, _error: Exception | None) -> None:
        if self.series and not self.series.done.done():
            self.series.done.set_exception(ConnectionError("The service closed a connection."))


class Series:
    """As many requests as `count`, each sent when the connection has the answer to the last."""

    def __init__(self, payload: bytes, count: int) -> None:
        self.payload = payload
        self.is_random = RANDOM.encode() in payload
        self.unsent = self.unanswered = count
        self.slice = Slice()
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, connection: Connection, status: int, latency_s: float) -> None:
        self.slice.latencies_s.append(latency_s)
        self.slice.statuses[status] += 1
        self.unanswered -= 1
        if self.unsent:
            self.unsent -= 1
            connection.send(self)
        elif not self.unanswered and not self.done.done():
            self.done.set_result(None)


_runner = asyncio.Runner()
_open: dict[int, list[Connection]] = {}


def send(port: int, payload: bytes, count: int, clients: int) -> Slice:
    """Send the request `count` times, on as many connections as `clients`; runs in the client."""
    return _runner.run(_send(port, payload, count, clients))


async def _send(port: int, payload: bytes, count: int, clients: int) -> Slice:
    loop = asyncio.get_running_loop()
    connections = _open.setdefault(port, [])
    while len(connections) < clients:
        _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
        connections.append(connection)
    series = Series(payload, count)
    started = time.perf_counter()
    for connection in connections[:count]:
        series.unsent -= 1
        connection.send(series)
    await asyncio.wait_for(series.done, _TIMEOUT_S)
    series.slice.seconds = time.perf_counter() - started
    return series.slice
