"""Streams end with their worker, with their client, and with a client that does not read."""

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from fastapi import APIRouter, FastAPI, HTTPException, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from app.core.http import problems, streams
from app.core.http.streams import until_stop
from app.core.server.protocol import WebSocketProtocol
from tests.internals.server import served


class Source:
    """Numbers, which wait after the first `ready` ones; knows whether it is closed."""

    def __init__(self, ready: int = 1, size: int = 0) -> None:
        self.ready, self.size = ready, size
        self.sent = 0
        self.closed = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            while self.sent < self.ready:
                self.sent += 1
                yield str(self.sent).ljust(self.size)
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def test_a_stream_ends_between_two_items_and_closes_its_source() -> None:
    source, seen = Source(ready=2), []
    async for item in until_stop(source):
        seen.append(item)
        if len(seen) == 2:
            # While the source waits, and before that.
            asyncio.get_running_loop().call_soon(end_all)
    assert seen == ["1", "2"]
    assert source.closed.is_set()

    source = Source(ready=9)
    async for _ in until_stop(source):
        end_all()
    assert source.sent == 1
    assert source.closed.is_set()
    assert not streams.streams


def end_all() -> None:
    for stream in streams.streams:
        stream.end()
        stream.end()


async def test_a_time_out_of_the_source_is_an_error() -> None:
    async def source() -> AsyncIterator[int]:
        async with asyncio.timeout(0):
            await asyncio.Event().wait()
        yield 1

    with pytest.raises(TimeoutError):
        await anext(until_stop(source()))


@asynccontextmanager
async def serving(source: Source, **settings: float) -> AsyncIterator[str]:
    """Serve the source as events and through a WebSocket; yields the address."""
    router = APIRouter()

    @router.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        async for item in until_stop(source):
            yield ServerSentEvent(raw_data=item)

    @router.websocket("/socket")
    async def push(socket: WebSocket) -> None:
        await socket.accept()
        async for item in until_stop(source, socket):
            await socket.send_text(item)

    @router.websocket("/refused")
    async def refused(socket: WebSocket) -> None:
        raise HTTPException(401)

    app = FastAPI()
    problems.install(app)
    app.include_router(router)
    async with served(app, [], ws=WebSocketProtocol, **settings) as (_, listener):
        yield "{}:{}".format(*listener.getsockname())


async def test_a_socket_that_its_client_leaves_ends_while_its_source_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = Source()
    async with serving(source) as address:
        async with connect(f"ws://{address}/socket") as socket:
            await socket.send("not read")
            assert await socket.recv() == "1"
        async with asyncio.timeout(10):
            await source.closed.wait()
    assert "Error" not in caplog.text


async def test_a_refused_socket_is_no_error_of_the_service(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(Source()) as address:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(f"ws://{address}/refused"):
                pass
    assert refused.value.response.status_code == 401
    assert [each for each in caplog.records if each.levelno > logging.INFO] == []


HEAD = (
    "GET /{} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\n{}"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


@pytest.mark.parametrize(
    ("path", "upgrade"), [("events", ""), ("socket", "Upgrade: websocket\r\n")]
)
async def test_a_client_that_does_not_read_makes_its_stream_wait_and_is_cut_off(
    path: str, upgrade: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # FastAPI lets an error be logged, and pytest keeps its traceback, which refers to the source.
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)
    source = Source(ready=10**6, size=100_000)
    async with serving(source, header_timeout_s=60, body_timeout_s=0.5) as address:
        host, port = address.split(":")
        loop = asyncio.get_running_loop()
        with socket.socket() as client:
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(client, (host, int(port)))
            await loop.sock_sendall(client, HEAD.format(path, upgrade).encode())
            async with asyncio.timeout(20):
                while not source.closed.is_set():
                    await asyncio.sleep(0.5)
                    gc.collect()
    # 20 MB: more than the buffers of the kernel.
    assert 10 < source.sent < 200
