"""Each request is measured once, under a bounded label, however it ends."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext
from copy import copy
from typing import Any
from zlib import crc32

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import literal, select
from starlette.background import BackgroundTask

from app.core.application import create_app
from app.core.cache import no_store
from app.core.database import PreparedRead, ReadSession, ReadSessionDep
from app.core.database.gate import Gate
from app.core.settings.telemetry import TelemetrySettings
from app.core.telemetry import requests as telemetry
from app.core.telemetry.activity import Activity, current
from app.core.telemetry.requests import MeasuredRequest, Telemetry, open_now
from app.settings import get_settings

ONE = PreparedRead(select(literal(1).label("one")))
App = Callable[[Any, Any, Any], Any]


class Seen:
    """The reported requests, and how many more are open than when the test began."""

    def __init__(self) -> None:
        self.requests: list[MeasuredRequest] = []
        self._before = open_now.copy()

    def observe(self, request: MeasuredRequest) -> None:
        # As it is now: a task after the response changes it.
        self.requests.append(copy(request))

    @property
    def running(self) -> int:
        return open_now["requests"] - self._before["requests"]

    @property
    def streams(self) -> int:
        return open_now["streams"] - self._before["streams"]


def measured(app: App, **settings: Any) -> tuple[Telemetry, Seen]:
    seen = Seen()
    own = TelemetrySettings.model_construct(**(TelemetrySettings().model_dump() | settings))
    return Telemetry(app, settings=own, observe=seen.observe), seen


async def call(app: App, method: str = "GET", headers: Any = (), send: Any = None) -> list[Any]:
    """Call the application as a server does; return its messages."""
    sent: list[Any] = []

    async def keep(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": method, "path": "/", "headers": headers}
    await app(scope, None, send or keep)
    return sent


async def start(send: Any, status: int = 200) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"a", b"b")]})


async def whole(_scope: Any, _receive: Any, send: Any) -> None:
    await start(send, 201)
    await send({"type": "http.response.body", "body": b"x"})


async def fails(_scope: Any, _receive: Any, send: Any) -> None:
    raise ValueError


async def fails_within(_scope: Any, _receive: Any, send: Any) -> None:
    await start(send)
    await send({"type": "http.response.body", "body": b"x", "more_body": True})
    raise ValueError


async def fails_after(_scope: Any, _receive: Any, send: Any) -> None:
    await whole(None, None, send)
    raise ValueError


async def is_cancelled(_scope: Any, _receive: Any, send: Any) -> None:
    await start(send)
    raise asyncio.CancelledError


async def does_not_answer(_scope: Any, _receive: Any, _send: Any) -> None: ...


@pytest.mark.parametrize(
    ("app", "error", "status"),
    [
        (whole, None, 201),
        (fails, ValueError, 500),
        (fails_within, ValueError, 500),
        (fails_after, ValueError, 201),
        (is_cancelled, asyncio.CancelledError, 500),
        (does_not_answer, None, 500),
    ],
)
async def test_every_request_is_observed_once(
    app: App, error: type[BaseException] | None, status: int
) -> None:
    application, seen = measured(app)
    with pytest.raises(error) if error else nullcontext():
        await call(application)

    assert [request.status for request in seen.requests] == [status]
    assert seen.running == 0


async def test_headers_are_added_and_those_of_the_application_are_not_changed() -> None:
    headers: list[Any] = [(b"a", b"b")]

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    application, _ = measured(app, server_timing=True)
    (message,) = await call(application)

    names = [name for name, _ in message["headers"]]
    assert names == [b"a", b"x-request-id", b"server-timing", b"x-process-time"]
    assert len(headers) == 1


class Cycle:
    """A request of uvicorn whose client has left; test_logs.py has a real one."""

    disconnected = True

    async def send(self, _message: Any) -> None: ...


@pytest.mark.parametrize(("status", "expected"), [(200, 499), (404, 499), (503, 503)])
async def test_a_client_that_leaves_is_no_success_and_hides_no_error(
    status: int, expected: int
) -> None:
    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await start(send, status)
        await send({"type": "http.response.body"})

    application, seen = measured(app)
    await call(application, send=Cycle().send)

    assert [request.status for request in seen.requests] == [expected]


@pytest.mark.parametrize(("method", "label"), [("PATCH", "PATCH"), ("HACK", "_OTHER")])
async def test_methods_have_few_labels(method: str, label: str) -> None:
    application, seen = measured(whole)
    await call(application, method=method)

    assert seen.requests[0].method == label


def lines(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [record for record in caplog.records if record.name == name]


async def test_slow_requests_are_logged_with_a_bound(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    caplog.set_level(logging.INFO, "app.access")
    monkeypatch.setattr(telemetry, "perf_counter", lambda: now)

    async def slow(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal now
        current_activity = current.get()
        assert current_activity is not None
        current_activity.cache = "miss"
        now += 0.01
        await whole(None, None, send)

    application, _ = measured(slow, slow_request_ms=10, access_log_sample=1)
    for _ in range(15):
        await call(application)
    now = 102.0
    await call(application)

    found = lines(caplog, "app.slow")
    assert [found[0].status, found[0].duration_ms, found[0].cache] == [201, 10.0, "miss"]
    assert found[0].getMessage() == "GET unmatched 201 in 10 ms"
    assert found[-2].getMessage() == "5 more slow requests were not logged"
    assert len(found) == telemetry.MAX_SLOW_LINES + 2
    assert len(lines(caplog, "app.access")) == 16


async def test_a_stream_that_begins_in_time_is_not_slow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(telemetry, "perf_counter", lambda: now)

    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        nonlocal now
        now += 0.1
        await start(send)
        now += 60
        await send({"type": "http.response.body"})

    application, seen = measured(stream)
    await call(application)

    assert lines(caplog, "app.slow") == []
    assert seen.requests[0].duration_s == pytest.approx(60.1)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
async def test_the_access_log_is_a_sample_by_id(
    share: float, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.access")
    application, _ = measured(whole, access_log_sample=share)
    expected = 0
    for number in range(100):
        identifier = b"id-%d" % number
        expected += crc32(identifier) < share * 2**32

        await call(application, headers=[(b"x-request-id", identifier)])

    assert len(lines(caplog, "app.access")) == expected
    assert expected == {0.0: 0, 1.0: 100}.get(share, expected)


async def test_the_wait_for_a_connection_belongs_to_the_request_that_waits() -> None:
    gate = Gate(1, timeout_s=5)
    await gate.acquire()

    async def waits() -> float:
        activity = Activity("id")
        current.set(activity)
        async with gate:
            return activity.pool_wait_s

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0.02)
    gate.release()

    assert await waiting >= 0.01
    assert await asyncio.create_task(waits()) == 0


async def test_a_pipelined_request_is_no_part_of_the_one_before_it() -> None:
    application, _ = measured(whole)
    outer: list[Activity | None] = []

    async def start_next(_message: Any) -> None:
        activity = current.get()
        assert activity is not None
        outer.append(activity.outer)
        if len(outer) < 5:
            # uvicorn starts the next request at the end of a response, in its context.
            await asyncio.create_task(call(application, send=start_next))

    await call(application, send=start_next)

    assert len(outer) >= 5
    # Of all, it is that of this test.
    assert len(set(outer)) == 1


router = APIRouter(prefix="/measured")


@router.post("/body")
async def read_body(request: Request) -> None:
    await request.body()


@router.get("/queries/{number}")
@no_store
async def send_statements(number: int, session: ReadSessionDep) -> None:
    await asyncio.gather(*(session.fetch(ONE) for _ in range(number)))


@router.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            await ReadSession().fetch(ONE)
            yield b"part"

    return StreamingResponse(parts(), background=BackgroundTask(ReadSession().fetch, ONE))


@pytest.fixture
def own(app: FastAPI) -> tuple[FastAPI, Seen]:
    settings = get_settings().model_copy(update={"server_timing": True})
    own = create_app(settings, router, title="measured", description="for tests")
    seen = Seen()
    (layer,) = [middleware for middleware in own.edge if middleware.cls is Telemetry]  # type: ignore[attr-defined]
    layer.kwargs["observe"] = seen.observe
    return own, seen


@pytest.mark.parametrize(
    ("method", "path", "route", "status", "queries"),
    [
        ("GET", "/measured/queries/3", "/measured/queries/{number}", 200, 3),
        ("HEAD", "/measured/queries/2", "/measured/queries/{number}", 200, 2),
        ("GET", "/measured/queries/x", "/measured/queries/{number}", 422, 0),
        ("POST", "/measured/queries/1", "/measured/queries/{number}", 405, 0),
        # Without the statement of the task after the response.
        ("GET", "/measured/stream", "/measured/stream", 200, 3),
        ("GET", "/nowhere/7", "unmatched", 404, 0),
        ("GET", "/livez", "/livez", 200, 0),
    ],
)
async def test_a_request_has_the_label_of_its_route_and_its_statements(
    own: tuple[FastAPI, Seen], method: str, path: str, route: str, status: int, queries: int
) -> None:
    app, seen = own
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        response = await client.request(method, path)

    assert [
        (request.method, request.route, request.status, request.queries)
        for request in seen.requests
    ] == [(method, route, status, queries)]
    timing = response.headers["server-timing"]
    assert timing.startswith('db;desc="' if path.endswith("stream") else f'db;desc="{queries} ')
    assert float(response.headers["x-process-time"]) > 0


async def test_a_client_that_leaves_while_it_sends_is_no_error(own: tuple[FastAPI, Seen]) -> None:
    app, seen = own
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/measured/body",
        "query_string": b"",
        "headers": [(b"host", b"test"), (b"content-length", b"9")],
    }

    async def leave() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    await app(scope, leave, Cycle().send)

    assert [request.status for request in seen.requests] == [499]


async def test_by_default_clients_see_no_timing(app: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        headers = (await client.get("/livez")).headers

    assert {"server-timing", "x-process-time"}.isdisjoint(headers)


async def test_an_event_stream_is_reported_when_it_begins() -> None:
    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        assert (seen.running, seen.streams) == (0, 1)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ZeroDivisionError

    app, seen = measured(stream)
    with pytest.raises(ZeroDivisionError):
        await call(app)

    assert [(request.method, request.status) for request in seen.requests] == [("GET", 200)]
    assert (seen.running, seen.streams) == (0, 0)


EVENTS = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream")],
}


@pytest.mark.parametrize(
    ("scope_type", "start"), [("http", EVENTS), ("websocket", {"type": "websocket.accept"})]
)
async def test_a_stream_whose_start_the_server_refuses_is_an_error(
    scope_type: str, start: dict[str, Any]
) -> None:
    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send(start)

    async def refuse(_message: Any) -> None:
        raise RuntimeError

    app, seen = measured(stream)
    with pytest.raises(RuntimeError):
        await app({"type": scope_type, "path": "/", "headers": ()}, None, refuse)  # type: ignore[arg-type]

    assert [request.status for request in seen.requests] == [500]
    assert (seen.running, seen.streams) == (0, 0)


async def test_a_stream_that_starts_twice_is_one() -> None:
    async def stream(_scope: Any, _receive: Any, send: Any) -> None:
        await send(EVENTS)
        await send(EVENTS)
        assert seen.streams == 1

    app, seen = measured(stream)
    await call(app)

    assert len(seen.requests) == 1
    assert (seen.running, seen.streams) == (0, 0)


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.close"}], 101),
        ([{"type": "websocket.close"}], 403),
        (
            [
                {"type": "websocket.http.response.start", "status": 401},
                {"type": "websocket.http.response.body"},
            ],
            401,
        ),
        ([], 500),
    ],
)
async def test_a_websocket_is_reported_when_it_opens_or_is_refused(
    messages: list[Any], status: int
) -> None:
    async def socket(_scope: Any, _receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    app, seen = measured(socket)
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"x-request-id", b"mine")]
    await app({"type": "websocket", "path": "/", "headers": headers}, None, send)  # type: ignore[arg-type]

    assert [(request.method, request.status) for request in seen.requests] == [("GET", status)]
    assert (seen.running, seen.streams) == (0, 0)
    if status in (101, 401):
        assert (b"x-request-id", b"mine") in sent[0]["headers"]
