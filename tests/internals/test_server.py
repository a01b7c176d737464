"""The size of a request's head and the time of its transfer have bounds, which uvicorn lacks."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from app.core.server.httptools import HttpTools
from app.core.server.protocol import MAX_HEAD_BYTES, MIN_BODY_BYTES_PER_S
from tests.internals.transport import Transport

LINE = b"GET / HTTP/1.1\r\nHost: test\r\n"
CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


async def body_size(scope: Any, receive: Any, send: Any) -> None:
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size += len(message["body"])
        if not message["more_body"]:
            break
    body = b"%d" % size
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def connection(answer: Any = body_size) -> AsyncIterator[tuple[HttpTools, Transport]]:
    protocol = HttpTools(Config(answer, lifespan="off"), ServerState(), {})
    transport = Transport()
    protocol.connection_made(transport)
    yield protocol, transport
    if transport.is_closed:
        protocol.connection_lost(None)
    await asyncio.gather(*protocol.tasks)


def fill(number: int) -> bytes:
    return b"x" * number


@pytest.mark.parametrize(
    "start",
    [b"GET /", b"GET /?", LINE + b"X: ", LINE + b"X", b"G"],
    ids=["path", "query", "value", "name", "method"],
)
@pytest.mark.parametrize("size", [1000, 2 * MAX_HEAD_BYTES])
async def test_an_endless_head_is_refused(start: bytes, size: int) -> None:
    sent = len(start)
    async with connection() as (protocol, transport):
        protocol.data_received(start)
        while not transport.is_closed:
            assert sent <= 2 * MAX_HEAD_BYTES
            protocol.data_received(fill(size))
            sent += size

    head, _, body = transport.written.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))
    assert b"\r\nconnection: close" in head
    assert b"\r\ncontent-type: application/problem+json" in head
    assert orjson.loads(body)["status"] == int(head.split()[1])


async def test_many_headers_are_refused() -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(LINE + b"X: y\r\n" * MAX_HEAD_BYTES)

    assert transport.written.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("start", [b"0\r\nX: ", b"1;x=", b"1\r\nx\r\n0\r\nX"])
async def test_an_endless_trailer_or_chunk_extension_is_refused(start: bytes) -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(CHUNKED + start)
        sent = 0
        while not transport.is_closed:
            assert sent <= 2 * MAX_HEAD_BYTES
            protocol.data_received(fill(1000))
            sent += 1000


@pytest.mark.parametrize("size", [MAX_HEAD_BYTES - 100, MAX_HEAD_BYTES + 100, 2 * MAX_HEAD_BYTES])
@pytest.mark.parametrize("start", [LINE, CHUNKED + b"0\r\n"], ids=["head", "trailers"])
async def test_fields_that_arrive_at_once_have_the_same_limit(start: bytes, size: int) -> None:
    begun = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        begun.append(scope["method"])
        await body_size(scope, receive, send)

    async with connection(answer) as (protocol, transport):
        protocol.data_received(start + b"X: " + fill(size - len(start) - 10) + b"\r\n\r\n")
        if not transport.is_closed:
            await asyncio.gather(*protocol.tasks)
        protocol.transport.close()

    is_refused = size > MAX_HEAD_BYTES
    assert transport.written.count(b"HTTP/1.1 ") == 1
    assert transport.written.startswith(b"HTTP/1.1 431 " if is_refused else b"HTTP/1.1 200 ")
    assert begun == ["GET"] * (not is_refused) if start == LINE else begun == ["POST"]


async def test_trailers_are_no_headers() -> None:
    seen = []

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        seen.extend(scope["headers"])
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with connection(answer) as (protocol, _):
        protocol.data_received(CHUNKED + b"1\r\nx\r\n")
        protocol.data_received(b"0\r\nX-User: admin\r\n\r\n")

    assert seen == [(b"host", b"test"), (b"transfer-encoding", b"chunked")]


async def test_bodies_and_later_requests_do_not_count() -> None:
    size = 5 * MAX_HEAD_BYTES
    post = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
    async with connection() as (protocol, transport):
        for _ in range(3):
            protocol.data_received(post + fill(100))
            protocol.data_received(fill(size - 100))
            await asyncio.gather(*protocol.tasks)
            head = LINE + b"X: " + fill(MAX_HEAD_BYTES - 100) + b"\r\n\r\n"
            protocol.data_received(head[:20])
            protocol.data_received(head[20:])
            await asyncio.gather(*protocol.tasks)

        assert transport.written.count(b"HTTP/1.1 200 OK") == 6
        assert not transport.is_closed
        protocol.shutdown()


async def test_a_malformed_request_is_a_problem() -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(b"no http\r\n\r\n")

    assert transport.written.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert orjson.loads(transport.written.partition(b"\r\n\r\n")[2])["status"] == 400


GET = LINE + b"\r\n"
CLOSE = LINE + b"Connection: close\r\n\r\n"
HEAD = GET.replace(b"GET", b"HEAD")
EXPECT = CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n"
TWO = [(b"content-length", b"2")]


@pytest.mark.parametrize(
    ("request_", "status", "headers", "parts", "writes"),
    [
        (GET, 200, TWO, [b"ok"], [b"\r\n\r\nok"]),
        (CLOSE, 200, TWO, [b"ok"], [b"\r\nconnection: close\r\n\r\nok"]),
        (GET, 200, [], [b"ok"], [b"\r\n\r\n2\r\nok\r\n0\r\n\r\n"]),
        (GET, 204, [], [b""], [b"\r\n\r\n"]),
        (GET, 304, [], [b""], [b"\r\n\r\n"]),
        (HEAD, 200, TWO, [b"ok"], [b"\r\n\r\n"]),
        (GET, 200, TWO, [b"", b"ok"], [b"\r\n\r\n", b"ok"]),
        (GET, 200, TWO, [b"o", b"k"], [b"\r\n\r\no", b"k"]),
    ],
)
async def test_a_head_and_a_body_that_follows_at_once_are_one_write(
    request_: bytes,
    status: int,
    headers: list[tuple[bytes, bytes]],
    parts: list[bytes],
    writes: list[bytes],
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers})
        *more, last = parts
        for part in more:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": last})

    async with connection(answer) as (protocol, transport):
        for number in (1, 2):
            protocol.data_received(request_)
            await asyncio.gather(*protocol.tasks)
            await asyncio.sleep(0)
            if transport.is_closed:
                break
            assert len(transport.writes) == number * len(writes)
        protocol.transport.close()

    assert len(transport.writes) % len(writes) == 0
    for written, end in zip(transport.writes, writes, strict=False):
        assert written.endswith(end)
    assert transport.writes[0].startswith(b"HTTP/1.1 %d " % status)


async def test_the_head_of_a_stream_is_written_before_its_first_part_is_there() -> None:
    item = asyncio.Event()

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await item.wait()
        await send({"type": "http.response.body", "body": b"data"})

    async with connection(answer) as (protocol, transport):
        protocol.data_received(GET)
        while not transport.writes:
            await asyncio.sleep(0)
        assert transport.written.endswith(b"\r\n\r\n")
        item.set()
        await asyncio.gather(*protocol.tasks)
        assert transport.writes[1:] == [b"4\r\ndata\r\n0\r\n\r\n"]
        protocol.transport.close()


@pytest.mark.parametrize("request_", [GET, HEAD])
@pytest.mark.parametrize("status", [200, 204, 304])
async def test_a_response_is_written_before_its_idle_connection_is_closed(
    request_: bytes, status: int
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        # As uvicorn does at a stop, in the same turn of the loop.
        protocol.shutdown()

    async with connection(answer) as (protocol, transport):
        protocol.data_received(request_)
        await asyncio.gather(*protocol.tasks)
        assert transport.is_closed

    assert transport.written.startswith(b"HTTP/1.1 %d " % status)


async def test_an_interim_response_is_no_head() -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(EXPECT)
        while not transport.writes:
            await asyncio.sleep(0)
        assert transport.writes == [b"HTTP/1.1 100 Continue\r\n\r\n"]
        protocol.data_received(b"2\r\nok\r\n0\r\n\r\n")
        await asyncio.gather(*protocol.tasks)
        assert len(transport.writes) == 2
        assert transport.writes[1].endswith(b"\r\n\r\n2")
        protocol.transport.close()


async def test_a_closed_connection_gets_no_head() -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": TWO})
        protocol.transport.close()

    async with connection(answer) as (protocol, transport):
        protocol.data_received(GET)
        await asyncio.gather(*protocol.tasks)
        await asyncio.sleep(0)

    assert transport.writes == []


HEAD_S, BODY_S = 20, 30
UPLOAD = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n"


def seconds_until_closed(
    protocol: HttpTools, transport: Transport, data: bytes, limit_s: int = 200
) -> int | None:
    """Send `data` each second; None if the connection is open after `limit_s`."""
    for second in range(limit_s):
        protocol.close_if_slow(second, head_s=HEAD_S, body_s=BODY_S)
        if transport.is_closed:
            return second
        if data:
            protocol.data_received(data)
    return None


@pytest.mark.parametrize(
    ("start", "then"),
    [(b"", b""), (LINE, b""), (LINE + b"X: ", b"x"), (LINE + b"\r\n" + LINE + b"X: ", b"x")],
    ids=["silent", "half a head", "a byte a second", "the second request"],
)
async def test_a_slow_head_is_closed(start: bytes, then: bytes) -> None:
    async with connection() as (protocol, transport):
        if start:
            protocol.data_received(start)
        await asyncio.gather(*protocol.tasks)
        seconds = seconds_until_closed(protocol, transport, then)
        assert seconds in (HEAD_S + 1, HEAD_S + 2)


@pytest.mark.parametrize(
    ("rate", "closed_s"), [(0, BODY_S + 1), (1, BODY_S + 1), (2 * MIN_BODY_BYTES_PER_S, None)]
)
async def test_a_slow_body_is_a_408(rate: int, closed_s: int | None) -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(UPLOAD)
        # The application reads; otherwise the client would not be the slow one.
        protocol.flow.pause_reading = lambda: None  # type: ignore[method-assign]
        seconds = seconds_until_closed(protocol, transport, fill(rate), limit_s=40)
        assert seconds == closed_s
        if closed_s is None:
            protocol.transport.close()
        else:
            assert transport.written.startswith(b"HTTP/1.1 408 Request Timeout\r\n")


async def test_a_client_that_reads_nothing_is_closed() -> None:
    async with connection() as (protocol, transport):
        protocol.data_received(LINE + b"\r\n")
        await asyncio.gather(*protocol.tasks)
        transport.unsent = 1000
        assert seconds_until_closed(protocol, transport, b"") == BODY_S + 1


async def test_a_client_that_reads_slowly_is_not_closed() -> None:
    ours, its = socket.socketpair()
    ours.setblocking(False)
    with ours, its:
        async with connection() as (protocol, transport):
            transport._extra["socket"] = ours  # type: ignore[attr-defined]
            protocol.data_received(LINE + b"\r\n")
            await asyncio.gather(*protocol.tasks)
            # The kernel takes nothing from the transport until it has sent much.
            transport.unsent = 1000
            for second in range(2 * BODY_S):
                if second % (BODY_S // 2) == 0:
                    ours.send(fill(1000))
                protocol.close_if_slow(second, head_s=HEAD_S, body_s=BODY_S)
                assert not transport.is_closed
            protocol.transport.close()


async def test_a_head_behind_a_request_that_runs_is_not_idle() -> None:
    answer = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await answer.wait()
        await body_size(scope, receive, send)

    async with connection(slow) as (protocol, transport):
        protocol.data_received(LINE + b"\r\nGET /liv")
        answer.set()
        await asyncio.gather(*protocol.tasks)
        assert seconds_until_closed(protocol, transport, b"") == HEAD_S + 1


async def test_idle_connections_and_slow_applications_have_no_time_out_here() -> None:
    answer = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await answer.wait()
        await body_size(scope, receive, send)

    async with connection(slow) as (protocol, transport):
        # With `Expect`, the client waits for the application to read.
        expect = UPLOAD[:-2] + b"Expect: 100-continue\r\n\r\n"
        for request in (LINE + b"\r\n", expect):
            protocol.data_received(request)
            await asyncio.sleep(0)
            assert seconds_until_closed(protocol, transport, b"") is None
            if request != expect:
                answer.set()
                await asyncio.gather(*protocol.tasks)
                assert seconds_until_closed(protocol, transport, b"") is None
                answer.clear()
        protocol.transport.close()
        answer.set()
