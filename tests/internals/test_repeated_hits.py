"""A repeated hit is answered by the connection as the application answers it."""

import asyncio
import logging
import math
import random
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from uvicorn import Config
from uvicorn.server import ServerState

from app.core.application import create_app
from app.core.cache import cache, public
from app.core.cache.responses.repeated import MAX_BYTES, MAX_REQUESTS, MAX_TARGETS
from app.core.server.httptools import HttpTools
from app.core.server.protocol import CLOSE
from app.core.telemetry.requests import open_now
from app.settings import get_settings
from tests.internals.transport import Transport

HOST = b"Host: test\r\n"
DATE = (b"date", b"now")


class Site:
    """A service, and connections to it; its endpoints count their calls."""

    def __init__(self, **settings: Any) -> None:
        router = APIRouter()
        self.calls = 0
        self.release = asyncio.Event()

        @router.get("/page/{number}")
        @public(ttl_s=60, tags=("page:{number}",), vary=("accept-encoding",))
        async def page(number: int, response: Response, name: str = "") -> dict[str, Any]:
            self.calls += 1
            response.headers["X-Percent"] = "100%d"
            response.headers["X-Process-Time"] = "own"
            return {"number": number, "name": name, "call": self.calls}

        @router.get("/missing")
        @public(ttl_s=60, negative_ttl_s=60)
        async def missing() -> Response:
            return Response(status_code=404)

        @router.get("/stream")
        @public(ttl_s=60)
        async def stream() -> StreamingResponse:
            return StreamingResponse(iter([b"a", b"b"]))

        @router.get("/slow")
        async def slow() -> None:
            await self.release.wait()

        given = get_settings().model_copy(update=settings)
        self.app = create_app(given, router, title="test", description="")
        self.state = ServerState()
        self.state.default_headers = [DATE]
        self.connections: list[HttpTools] = []

    def connection(self, app: Any = None) -> tuple[HttpTools, Transport]:
        config = Config(app or self.app, lifespan="off", log_config=None, proxy_headers=False)
        protocol, transport = HttpTools(config, self.state, {}), Transport()
        protocol.access_log = False
        protocol.connection_made(transport)
        self.connections.append(protocol)
        return protocol, transport

    def close(self) -> None:
        for protocol in self.connections:
            protocol._unset_keepalive_if_required()


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    # The cache of this process alone.
    for name, value in (("trusted_until", math.inf), ("max_bytes", 10**6)):
        monkeypatch.setattr(cache.local, name, value)
    if server := getattr(cache, "server", None):
        # Other tests may have connected it.
        monkeypatch.setattr(server, "_connection", None)
    cache.local.clear()
    made = await asyncio.to_thread(Site)
    yield made
    for protocol in made.connections:
        protocol._unset_keepalive_if_required()
    cache.local.clear()


async def ask(
    connection: tuple[HttpTools, Transport], target: str, more: bytes = b"", method: str = "GET"
) -> tuple[bytes, bool]:
    """Return the response, and whether it was there at once."""
    protocol, transport = connection
    transport.writes.clear()
    head = f"{method} {target} HTTP/1.1\r\n".encode()
    protocol.data_received(head + (b"" if b"Host:" in more else HOST) + more + b"\r\n")
    is_at_once = bool(transport.writes)
    await asyncio.gather(*protocol.tasks)
    await asyncio.sleep(0)
    return transport.written, is_at_once


def comparable(response: bytes) -> bytes:
    """Return the response with the same id, age and rest of its lifetime as all others."""
    response = re.sub(rb"(x-request-id|age): [^\r]+", rb"\1: x", response)
    return re.sub(rb"ttl=\d+", b"ttl=x", response)


async def test_a_connection_answers_as_the_application_does(site: Site) -> None:
    fast, plain = site.connection(), site.connection()
    plain[0].hits = None
    chosen = random.Random(5)  # noqa: S311 - no secret
    etag = re.search(rb'etag: ("[^"]+")', (await ask(plain, "/page/1"))[0])
    assert etag is not None
    at_once = 0
    for _ in range(400):
        target = chosen.choice(["/page/1", "/page/2", "/page/2?name=%25", "/missing", "/stream"])
        if not target.startswith("/page") and chosen.random() < 0.5:
            target = "/slow?"
            site.release.set()
        more = chosen.choice(
            [b"", b"", b"If-None-Match: " + etag[1] + b"\r\n", b'If-None-Match: "x"\r\n']
        )
        more += chosen.choice([b"", b"", b"Accept-Encoding: gzip\r\n", b"Host: other\r\n"])
        more += chosen.choice(
            [b"", b"User-Agent: x\r\n", b"Origin: https://x\r\n", b"Expect: 1\r\n"]
        )
        method = chosen.choice(["GET", "GET", "GET", "HEAD"])
        # Both find the entry there.
        await ask(plain, target, more)
        expected, _ = await ask(plain, target, more, method)
        answer, is_at_once = await ask(fast, target, more, method)

        assert comparable(answer) == comparable(expected)
        at_once += is_at_once
        assert not (is_at_once and (method == "HEAD" or target in ("/stream", "/slow?")))
        if chosen.random() < 0.02:
            cache.local.invalidate(["page:1"])

    assert at_once > 50
    assert open_now["requests"] == 0


async def test_a_refresh_of_a_known_request_drops_no_other(site: Site) -> None:
    connection = site.connection()
    sent = [b'If-None-Match: "%d"\r\n' % number for number in range(MAX_REQUESTS)]
    for each in sent * 2:
        await ask(connection, "/page/1", each)
    cache.local.invalidate(["page:1"])
    for each in sent * 2:
        await ask(connection, "/page/1", each)

    assert all([(await ask(connection, "/page/1", each))[1] for each in sent])


async def test_an_invalidation_ends_the_answers(site: Site) -> None:
    connection = site.connection()
    for _ in range(3):
        answer, is_at_once = await ask(connection, "/page/1")
    assert is_at_once
    assert answer.endswith(b'"call":1}')
    cache.local.invalidate(["page:1"])
    answer, is_at_once = await ask(connection, "/page/1")

    assert not is_at_once
    assert answer.endswith(b'"call":2}')


async def test_each_answer_is_counted_measured_and_logged(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    logged = await asyncio.to_thread(Site, access_log_sample=1.0, server_timing=True)
    connection = logged.connection()
    for _ in range(2):
        await ask(connection, "/page/1")
    before = cache.counts["local", "hit"]
    sent = b"X-Request-ID: of-the-client\r\n"
    with caplog.at_level(logging.INFO, "app.access"):
        answer, is_at_once = await ask(connection, "/page/1", sent)
    connection[0]._unset_keepalive_if_required()

    assert is_at_once
    assert b"\r\nx-request-id: of-the-client\r\nserver-timing: " in answer
    assert b'cache;desc="hit"' in answer
    assert answer.count(b"x-process-time: ") == 2
    assert cache.counts["local", "hit"] == before + 1
    line = caplog.records[-1]
    assert line.getMessage().startswith("GET /page/{number} 200 in ")
    assert (vars(line)["cache"], vars(line)["status"]) == ("hit", 200)
    assert connection[0].server_state.total_requests == 3


async def test_a_pipeline_keeps_its_order_and_its_connection(site: Site) -> None:
    protocol, transport = site.connection()
    for _ in range(2):
        await ask((protocol, transport), "/page/1")
    transport.writes.clear()
    hit, slow = (b"GET %b HTTP/1.1\r\nHost: test\r\n\r\n" % path for path in (b"/page/1", b"/slow"))
    protocol.data_received(hit + hit + slow + hit)
    assert len(transport.writes) == 2
    # Otherwise, the connection would end while the slow request runs.
    assert protocol.timeout_keep_alive_task is None
    site.release.set()
    while len(transport.writes) < 4:
        await asyncio.sleep(0)

    bodies = [each.partition(b"\r\n\r\n")[2][:5] for each in transport.writes]
    assert bodies == [b'{"num', b'{"num', b"null", b'{"num']
    assert protocol.timeout_keep_alive_task is not None


@pytest.mark.parametrize("more", [b"Connection: close\r\n", b"Expect: 100-continue\r\n"])
async def test_a_request_that_needs_more_is_for_the_application(site: Site, more: bytes) -> None:
    connection = site.connection()
    for _ in range(2):
        await ask(connection, "/page/1")

    assert not (await ask(connection, "/page/1", more))[1]


async def test_a_service_that_stops_closes_connections(site: Site) -> None:
    connection = site.connection()
    for _ in range(2):
        await ask(connection, "/page/1")
    site.state.default_headers.append(CLOSE)
    answer, is_at_once = await ask(connection, "/page/1")

    assert not is_at_once
    assert b"\r\nconnection: close\r\n" in answer
    assert connection[1].is_closed


async def test_middleware_of_the_team_sees_every_request(site: Site) -> None:
    seen = []

    class Own:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            seen.append(scope["type"])
            await self.app(scope, receive, send)

    site.app.add_middleware(Own)
    connection, outside = site.connection(), site.connection(Own(site.app))
    for _ in range(3):
        await ask(connection, "/page/1")
        await ask(outside, "/page/1")

    assert len(seen) == 9


async def test_requests_that_differ_have_bounds(site: Site) -> None:
    connection = site.connection()
    hits: Any = site.app.state.repeated_hits
    for number in range(20):
        for _ in range(2):
            await ask(connection, "/page/1", b'If-None-Match: "%d"\r\n' % number)
    for more in (b'If-None-Match: "%b"\r\n' % (b"x" * MAX_BYTES), b"Origin:\r\n" * 50):
        await ask(connection, "/page/1", more)
        assert not (await ask(connection, "/page/1", more))[1]
    for number in range(5):
        await ask(connection, f"/page/1?other={number}")

    assert all(len(of_target) <= MAX_REQUESTS for of_target in hits.known.values())
    assert not any(len(str(key)) > MAX_BYTES for of in hits.known.values() for key in of)
    hits.known = {b"%d" % number: {} for number in range(MAX_TARGETS)}
    for _ in range(2):
        await ask(connection, "/page/1?one=more")
    assert (await ask(connection, "/page/1?one=more"))[1]
    # The oldest one went.
    assert len(hits.known) == MAX_TARGETS
    assert b"0" not in hits.known
