"""Overload: the limit follows the queueing delay, and requests above it are refused at once."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from time import perf_counter
from typing import Any

import httpx2
import pytest
from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask
from uvicorn import Config
from uvicorn.server import ServerState

from app.core.application import create_app
from app.core.database.engine import gates
from app.core.database.gate import Gate
from app.core.server.httptools import HttpTools
from app.core.server.overload import (
    FREE_REFUSALS_PER_S,
    LATE_TICKS,
    MIN_WAITING,
    RETRY_AFTER_S,
    Limiter,
    shed_first,
    shed_never,
)
from app.core.telemetry.requests import open_now
from app.settings import get_settings
from dev.processes import free_port
from tests.core.serving import program
from tests.internals.commands import until
from tests.internals.transport import Transport

HOST = b"Host: test\r\n"
SITE = "https://app.example.org"
LIMIT = 4


def limiter(*, floor: int = 10, ceiling: int = 100, max_delay_s: float = 0.05) -> Limiter:
    return Limiter(floor=floor, ceiling=ceiling, max_delay_s=max_delay_s)


def test_a_burst_changes_nothing() -> None:
    one = limiter()
    one.adapt(9, 100)
    one.adapt(0, 100)
    one.adapt(9, 100)

    assert one.limit == 100


def test_a_queue_that_stays_takes_the_limit_to_the_floor() -> None:
    one, limits = limiter(), []
    for _ in range(LATE_TICKS + 1):
        one.adapt(9, one.limit)
        limits.append(one.limit)

    assert limits == [100, 20, 10]


def test_few_requests_are_not_the_cause_of_a_delay() -> None:
    one = limiter()
    for _ in range(LATE_TICKS + 1):
        one.adapt(9, one.floor)

    assert one.limit == 100


def test_the_limit_falls_from_the_requests_that_there_are() -> None:
    one = limiter()
    for _ in range(LATE_TICKS):
        one.adapt(0.1, 40)

    assert one.limit == 20


def test_a_small_delay_takes_a_small_step() -> None:
    one = limiter()
    for _ in range(LATE_TICKS):
        one.adapt(0.0625, 100)

    assert one.limit == 80


def test_the_limit_recovers_in_less_than_40_ticks() -> None:
    one = limiter(floor=10, ceiling=500)
    while one.limit > 10:
        one.adapt(9, one.limit)
    ticks = 0
    while one.limit < 500:
        one.adapt(0.05, one.limit)
        ticks += 1

    assert ticks < 40


async def test_tasks_whose_wait_has_not_ended_are_a_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a database that hangs: no task gets a connection, and none has given up yet."""
    gate, now_s = Gate(1, timeout_s=60), perf_counter()
    monkeypatch.setattr("app.core.database.gate.perf_counter", lambda: now_s)
    monkeypatch.setattr("app.core.server.overload.TICK_S", 0.01)
    monkeypatch.setitem(open_now, "requests", 100)
    gates.add(gate)
    await gate.acquire()
    one, waiting = limiter(max_delay_s=5), asyncio.create_task(gate.acquire())
    await asyncio.sleep(0)
    now_s += 30
    async with one.adapting(), asyncio.timeout(20):
        while one.limit > one.floor:
            await asyncio.sleep(0.01)

    gate.release()
    await waiting
    assert gate.longest_wait_s == 0


def test_the_settings_give_the_bounds() -> None:
    settings = get_settings()
    derived = Limiter.of(settings.model_copy(update={"max_in_flight": 0}), 10)
    chosen = Limiter.of(settings.model_copy(update={"max_in_flight": 7, "max_queue_ms": 0}), 10)
    for _ in range(LATE_TICKS):
        chosen.adapt(9, 7)

    assert (derived.floor, derived.ceiling) == (10 + MIN_WAITING, 500)
    assert (chosen.floor, chosen.ceiling, chosen.limit) == (7, 7, 7)


def test_refusals_in_excess_let_their_connections_wait() -> None:
    one = limiter()
    pauses = [one.pause_s() for _ in range(3 * FREE_REFUSALS_PER_S)]

    assert pauses[0] == 0
    assert max(pauses) == RETRY_AFTER_S


class Site:
    """A service with a limit of `LIMIT`, and connections to it."""

    def __init__(self) -> None:
        router = APIRouter()
        self.release = asyncio.Event()
        self.running = 0

        @router.post("/slow")
        @router.get("/slow")
        async def slow() -> None:
            self.running += 1
            await self.release.wait()
            self.running -= 1

        @router.post("/upload")
        async def upload(request: Request) -> None:
            await request.body()

        @router.get("/download")
        async def download() -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                yield "a"
                # The client reads no more.
                self.connections[-1][0].pause_writing()
                yield "b"

            return StreamingResponse(parts())

        @router.get("/exports/{name}")
        @shed_first
        async def export(name: str) -> None: ...

        @router.get("/cheap")
        @shed_never
        async def cheap() -> None: ...

        @router.get("/stream")
        async def stream() -> StreamingResponse:
            async def parts() -> AsyncIterator[str]:
                yield "data: 1\n\n"
                await self.release.wait()

            return StreamingResponse(parts(), media_type="text/event-stream")

        @router.get("/after")
        async def after() -> StreamingResponse:
            return StreamingResponse(iter(["a"]), background=BackgroundTask(self.release.wait))

        @router.websocket("/socket")
        async def socket(socket: WebSocket) -> None:
            await socket.accept()

        changes = {"max_in_flight": LIMIT, "max_queue_ms": 0, "cors_origins": (SITE,)}
        given = get_settings().model_copy(update=changes)
        self.app = create_app(given, router, title="test", description="")
        self.app.state.limiter.read(self.app)
        self.state = ServerState()
        self.connections: list[tuple[HttpTools, Transport]] = []

    def connection(self) -> tuple[HttpTools, Transport]:
        config = Config(self.app, lifespan="off", log_config=None, proxy_headers=False)
        protocol, transport = HttpTools(config, self.state, {}), Transport()
        protocol.access_log = False
        protocol.connection_made(transport)
        self.connections.append((protocol, transport))
        return self.connections[-1]

    def send(self, target: str, more: bytes = b"", method: str = "GET") -> Transport:
        """Send a request over a new connection."""
        protocol, transport = self.connection()
        protocol.data_received(f"{method} {target} HTTP/1.1\r\n".encode() + HOST + more + b"\r\n")
        return transport

    async def end(self) -> None:
        self.release.set()
        await asyncio.gather(*self.state.tasks)


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    made = await asyncio.to_thread(Site)
    yield made
    async with asyncio.timeout(20):
        await made.end()
    for protocol, _ in made.connections:
        protocol._unset_keepalive_if_required()


def status(transport: Transport) -> int:
    """Return the status of the response; 0 without one."""
    return int(transport.written.split()[1]) if transport.written else 0


async def until_written(transport: Transport) -> None:
    async with asyncio.timeout(20):
        while not transport.written:
            await asyncio.sleep(0)


async def test_requests_of_one_turn_of_the_loop_are_counted(site: Site) -> None:
    """They have no task yet that runs."""
    sent = [site.send("/slow") for _ in range(20)]

    assert [status(each) for each in sent] == [0] * LIMIT + [503] * (20 - LIMIT)
    assert len(site.state.tasks) == LIMIT
    await site.end()
    assert [status(each) for each in sent[:LIMIT]] == [200] * LIMIT


async def test_a_refusal_is_a_problem_document_and_keeps_the_connection(site: Site) -> None:
    for _ in range(LIMIT):
        site.send("/slow")
    protocol, transport = site.connection()
    protocol.data_received(b"POST /slow HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\n\r\na")
    protocol.data_received(b"bc")
    head, _, body = transport.written.partition(b"\r\n\r\n")

    assert status(transport) == 503
    assert b"\r\nretry-after: 1\r\n" in head.lower() + b"\r\n"
    assert b"\r\ncontent-type: application/problem+json" in head.lower()
    assert json.loads(body)["status"] == 503
    assert re.search(rb"content-length: (\d+)", head.lower())[1] == b"%d" % len(body)  # type: ignore[index]
    await site.end()
    transport.writes.clear()
    protocol.data_received(b"GET /slow HTTP/1.1\r\n" + HOST + b"\r\n")
    await until_written(transport)
    assert status(transport) == 200


async def test_a_script_may_read_a_refusal_which_has_an_id(site: Site) -> None:
    """Otherwise, the browser tells the script of a network error."""
    for _ in range(LIMIT):
        site.send("/slow")
    origin, identifier = f"Origin: {SITE}\r\n".encode(), b"X-Request-ID: a-1\r\n"
    allowed = b"\r\naccess-control-allow-origin: " + SITE.encode() + b"\r\n"

    refused = site.send("/slow", origin + identifier)
    assert status(refused) == 503
    assert allowed in refused.written
    assert b"retry-after" in refused.written.lower().partition(b"expose-headers")[2]
    assert b"\r\nx-request-id: a-1\r\n" in refused.written
    for more in (b"", b"Origin: https://other.example\r\n"):
        stranger = site.send("/slow", more)
        assert b"access-control" not in stranger.written
        assert re.search(rb"\r\nx-request-id: [0-9a-f]{32}\r\n", stranger.written)


async def test_a_refusal_of_the_application_has_the_same_headers(site: Site) -> None:
    """Such as that of a request whose connection is not simple."""
    for _ in range(LIMIT):
        site.send("/slow")
    more = b"Connection: close\r\nOrigin: " + SITE.encode() + b"\r\nX-Request-ID: a-1\r\n"

    for number in range(2):
        refused = site.send("/slow", more)
        await until_written(refused)
        assert status(refused) == 503
        head = refused.written.lower()
        assert head.count(b"access-control-allow-origin: " + SITE.encode()) == 1, number
        assert head.count(b"x-request-id: a-1") == 1


async def test_a_script_may_read_that_a_request_took_too_long(site: Site) -> None:
    protocol, transport = site.connection()
    more = b"Origin: " + SITE.encode() + b"\r\nX-Request-ID: a-1\r\n\r\n"
    protocol.data_received(b"GET /slow HTTP/1.1\r\n" + HOST + more)
    async with asyncio.timeout(20):
        while not site.running:
            await asyncio.sleep(0)
    cycle: Any = protocol.cycle
    cycle.activity.ends_s = 0.0
    protocol.close_if_slow(0, head_s=1, body_s=1)

    assert status(transport) == 504
    assert b"\r\naccess-control-allow-origin: " + SITE.encode() in transport.written
    assert b"\r\nx-request-id: a-1\r\n" in transport.written


async def test_malformed_http_does_not_get_the_headers_of_the_request_before_it(
    site: Site,
) -> None:
    protocol, transport = site.connection()
    more = b"Origin: " + SITE.encode() + b"\r\nX-Request-ID: a-1\r\n\r\n"
    protocol.data_received(b"GET /missing HTTP/1.1\r\n" + HOST + more)
    await until_written(transport)
    assert b"x-request-id: a-1" in transport.written
    transport.writes.clear()
    protocol.data_received(b"no HTTP\r\n\r\n")

    assert status(transport) == 400
    assert b"a-1" not in transport.written
    assert b"access-control" not in transport.written


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (b"Host: a\r\n", 400),
        (b"Content-Length: 99999999\r\n", 413),
        (b"Content-Encoding: br\r\n", 415),
    ],
)
async def test_a_script_may_read_the_refusals_of_the_edge(
    site: Site, more: bytes, expected: int
) -> None:
    sent = more + b"Origin: " + SITE.encode() + b"\r\nX-Request-ID: a-1\r\n"
    if expected != 413:
        sent += b"Content-Length: 1\r\n"
    transport = site.send("/upload", sent, method="POST")
    await until_written(transport)

    assert status(transport) == expected
    head = transport.written.lower()
    assert head.count(b"\r\naccess-control-allow-origin: " + SITE.encode()) == 1
    assert head.count(b"\r\nx-request-id: a-1\r\n") == 1


async def test_a_refused_head_has_no_body(site: Site) -> None:
    for _ in range(LIMIT):
        site.send("/slow")

    assert site.send("/slow", method="HEAD").written.endswith(b"\r\n\r\n")


async def test_priorities(site: Site) -> None:
    for _ in range(LIMIT // 2):
        site.send("/slow")
    half = {path: site.send(path) for path in ("/exports/a?b=1", "/cheap", "/slow", "/slow")}
    full = {path: site.send(path) for path in ("/exports/%61", "/cheap", "/livez", "/slow")}
    for path in ("/cheap", "/livez"):
        await until_written(full[path])

    assert (status(half["/exports/a?b=1"]), status(half["/cheap"])) == (503, 200)
    found = {path: status(transport) for path, transport in full.items()}
    assert found == {"/exports/%61": 503, "/cheap": 200, "/livez": 200, "/slow": 503}


@pytest.mark.parametrize("path", ["/stream", "/after"])
async def test_streams_and_work_after_a_response_do_not_count(site: Site, path: str) -> None:
    for _ in range(3 * LIMIT):
        transport = site.send(path)
        await until_written(transport)
        assert status(transport) == 200
        async with asyncio.timeout(20):
            while open_now["requests"]:
                await asyncio.sleep(0)

    assert len(site.state.tasks) == 3 * LIMIT
    assert status(site.send("/slow")) == 0


async def test_slow_clients_do_not_count(site: Site) -> None:
    """They could otherwise make the service refuse all others, at no cost."""
    upload = b"POST /upload HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\na"
    download = b"GET /download HTTP/1.1\r\n" + HOST + b"\r\n"
    for number, request in enumerate([upload, download] * LIMIT, 1):
        site.connection()[0].data_received(request)
        async with asyncio.timeout(20):
            while open_now["clients"] < number:
                await asyncio.sleep(0)
    slow = [*site.connections]
    sent = [site.send("/slow") for _ in range(LIMIT + 1)]

    assert [status(each) for each in sent] == [0] * LIMIT + [503]
    for protocol, _ in slow:
        protocol.resume_writing()
        if protocol.cycle.more_body:
            protocol.data_received(b"b")
    await site.end()
    assert {status(transport) for _, transport in slow} == {200}
    assert open_now == {"requests": 0, "clients": 0, "streams": 0, "tasks": 0}


@pytest.mark.parametrize(
    "more",
    [b"Connection: close\r\n", b"Expect: 100-continue\r\nContent-Length: 3\r\n"],
)
async def test_the_application_refuses_the_rest(site: Site, more: bytes) -> None:
    for _ in range(LIMIT):
        site.send("/slow")
    transport = site.send("/slow", more, method="POST")
    assert not transport.written
    await until_written(transport)

    assert status(transport) == 503
    assert b"retry-after: 1" in transport.written
    assert site.running <= LIMIT


async def test_websockets_are_refused_with_the_same_status(site: Site) -> None:
    for _ in range(LIMIT):
        site.send("/slow")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "websocket",
        "path": "/socket",
        "headers": [],
        "extensions": {"websocket.http.response": {}},
        "app": site.app,
    }
    await asyncio.sleep(0)
    await site.app(scope, None, send)  # type: ignore[arg-type]

    assert sent[0]["type"] == "websocket.http.response.start"
    assert sent[0]["status"] == 503


CLIENTS = 300
CEILING = 60
REQUESTS = 6000


@pytest.mark.timeout(180)
def test_a_server_with_far_too_many_clients() -> None:
    """Everything that is not answered is refused, and the service is itself afterwards."""
    port, admin_port = free_port(), free_port()
    variables = {
        "PORT": str(port),
        "ADMIN_PORT": str(admin_port),
        "WEB_CONCURRENCY": "1",
        "DATABASE_POOL_SIZE": "2",
        "MAX_IN_FLIGHT": str(CEILING),
        "MAX_QUEUE_MS": "10",
    }
    config = ("--config", "deploy/gunicorn.conf.py")
    command = ("gunicorn", *config, "tests.internals.overloaded:app")
    address, admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"
    with httpx2.Client(timeout=60) as client, ThreadPoolExecutor(1) as threads:

        def answers(_log: str) -> bool:
            with suppress(httpx2.TransportError):
                return client.get(f"{address}/livez").is_success
            return False

        def state() -> dict[str, int]:
            found: dict[str, int] = client.get(f"{address}/state").raise_for_status().json()
            return found

        with program(*command, is_ready=answers, **variables):
            loading = threads.submit(lambda: asyncio.run(load(port)))
            probes, limits = Counter[int](), []
            while not loading.done():
                for probe in (f"{address}/livez", f"{address}/readyz", f"{admin}/readyz"):
                    probes[client.get(probe).status_code] += 1
                limits.append(state()["limit"])
            found = loading.result()
            until(lambda: state()["limit"] == CEILING)
            most = state()

    assert found.keys() == {200, 503}
    assert probes.keys() == {200}
    assert most["requests"] <= CEILING
    assert most["connections"] <= CEILING
    assert min(limits) < CEILING


async def load(port: int) -> Counter[int]:
    """Send requests over kept connections, each at once after the last answer; count statuses."""
    found, left = Counter[int](), iter(range(REQUESTS))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in left:
            writer.write(b"GET /work HTTP/1.1\r\nHost: test\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
            code = int(head.split()[1])
            assert code == 200 or b"\r\nretry-after: 1\r\n" in head
            found[code] += 1
        writer.close()

    async with asyncio.timeout(120):
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return found
