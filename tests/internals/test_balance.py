"""Clients that keep their connections share the workers."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import Mock

import psutil
import pytest
from uvicorn import Config

from app.core.server.worker import DrainingServer
from app.core.settings.server import ServerSettings
from tests.core.serving import serving
from tests.internals.commands import master_of, until

CLIENTS = 40
# Each worker has about 18; without the pause after each connection, half of the bursts left one
# worker with at most one.
LEAST = 8
BURSTS = 5
GET = b"GET /livez HTTP/1.1\r\nHost: test\r\n\r\n"
TIMEOUT_S = 20
# A worker forgets the last burst at its next tick, which leaves no trace outside of it.
TWO_TICKS_S = 0.2


def connections(workers: Sequence[psutil.Process], port: int) -> list[int]:
    """Return the number of open connections of each worker."""
    return [
        sum(
            each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
            for each in worker.net_connections("tcp")
        )
        for worker in workers
    ]


async def burst(workers: Sequence[psutil.Process], port: int) -> list[int]:
    """Open all connections at once, send requests over each, and return each worker's number."""
    answered, counted = [asyncio.Event() for _ in range(CLIENTS)], asyncio.Event()

    async def client(first: asyncio.Event) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not counted.is_set():
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            first.set()
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as clients:
        for first in answered:
            clients.create_task(client(first))
        for first in answered:
            await first.wait()
        found = await asyncio.to_thread(connections, workers, port)
        counted.set()
    return found


@pytest.mark.timeout(120)
def test_connections_of_a_burst_are_shared_by_the_workers() -> None:
    with serving(WEB_CONCURRENCY="2", MAX_REQUESTS="0") as client:
        port = client.base_url.port or 0
        master = master_of(port)
        until(lambda: len(master.children()) == 2)
        workers = master.children()
        # Both serve: the parent of the workers opens no connection.
        until(lambda: all(len(each.net_connections("tcp")) > 1 for each in workers))
        client.close()
        fewest = []
        for _ in range(BURSTS):
            until(lambda: connections(workers, port) == [0, 0])
            time.sleep(TWO_TICKS_S)
            found = asyncio.run(burst(workers, port))
            assert sum(found) == CLIENTS
            fewest.append(min(found))

    assert statistics.median(fewest) >= LEAST, fewest


async def test_only_a_connection_that_adds_to_the_others_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses = Mock()
    monkeypatch.setattr(time, "sleep", pauses)
    running = DrainingServer(
        Config("none", lifespan="off"), ServerSettings.model_construct(), shares_sockets=True
    )
    running.lifespan = Mock(error_occurred=False)
    open_: set[Any] = running.server_state.connections

    def accept(number: int) -> int:
        """Accept connections that stay open; return the number of pauses."""
        pauses.reset_mock()
        for _ in range(number):
            open_.add(running._accept(Mock))
        return pauses.call_count

    assert accept(3) == 3
    # Short connections take the place of others.
    open_.pop()
    assert accept(1) == 0
    open_.clear()
    assert accept(3) == 0
    assert accept(1) == 1
    # After a tick, the connections of a new burst count again.
    open_.clear()
    await running.on_tick(1)
    assert accept(2) == 2
