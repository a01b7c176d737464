"""The client for other services, against servers on this machine that do all that servers do."""

import asyncio
import gzip
import threading
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any

import pytest
from opentelemetry import trace
from pydantic import BaseModel, TypeAdapter

from app.core.http.deadlines import DeadlineExceeded
from app.core.http.problems import Unavailable, Unprocessable, problem_response
from app.core.http_client import Answer, BadAnswer, HttpClient, hosts, http, metrics, public_http
from app.core.http_client import client as client_module
from app.core.http_client.addresses import LOOKUPS, Resolver, is_public
from app.core.http_client.hosts import Host, wait_before
from app.core.telemetry import request_id
from app.core.telemetry.activity import Load, current
from app.settings import get_settings
from tests.core.test_smoke import lacks_other_service

GOOD = b'{"number": 7}'
LIMIT = 1000
RETRIES = 2


class Thing(BaseModel):
    number: int


Reply = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """A server of another team; `replies` are its answers, of which the last is repeated."""

    def __init__(self) -> None:
        self.replies: list[Reply] = []
        self.requests: list[str] = []
        self.connections = 0
        self.port = 0
        self.left = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/things?token=secret"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                self.requests.append(head)
                length = head.lower().partition("content-length: ")[2].partition("\r\n")[0]
                self.requests[-1] += (await reader.readexactly(int(length or 0))).decode()
                reply = self.replies[min(len(self.requests), len(self.replies)) - 1]
                await reply(writer)
                await writer.drain()
                if reply is hang:
                    await reader.read()
        except (OSError, EOFError):
            self.left.set()
        finally:
            writer.close()


def answer(body: bytes = GOOD, status: int = 200, **headers: str) -> Reply:
    lines = [f"HTTP/1.1 {status} Status", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "\r\n"]).encode() + body)


def raw(data: bytes, *, again: bytes = b"", closes: bool = False, pause_s: float = 0) -> Reply:
    async def reply(writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        while again:
            await asyncio.sleep(pause_s)
            writer.write(again)
            await writer.drain()
        if closes:
            writer.transport.abort() if not data else writer.close()

    return reply


async def hang(_: asyncio.StreamWriter) -> None:
    """Stands for no answer: `serve` waits until the client leaves."""


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    # The second address is for tests of networks.
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    other = await asyncio.start_server(peer.serve, "127.0.0.2", peer.port)
    yield peer
    server.close()
    other.close()


Open = Callable[..., AbstractAsyncContextManager[HttpClient]]


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Open:
    """Makes a client with other settings, whose retries do not wait."""
    monkeypatch.setattr(hosts, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(client_module, "QUEUE_TIMEOUT_S", 0.02)

    @asynccontextmanager
    async def opened(only_public: bool = False, **settings: Any) -> AsyncIterator[HttpClient]:
        client = HttpClient(only_public=only_public)
        defaults = {"http_max_response_bytes": LIMIT, "http_read_timeout_s": 0.1}
        defaults["http_offline"] = False
        changed = get_settings().model_copy(
            update=defaults | {f"http_{name}": value for name, value in settings.items()}
        )
        async with client.opened(changed):
            yield client

    return opened


@pytest.fixture
async def client(opening: Open) -> AsyncIterator[HttpClient]:
    async with opening(total_timeout_s=1.0) as client:
        yield client


async def test_answers_are_values_of_a_type_and_connections_are_used_again(
    client: HttpClient, peer: Peer
) -> None:
    peer.replies = [answer(), answer(), answer(b"[7]"), answer(etag="x"), answer(b"[7, 8]")]

    assert await client.get(peer.url, into=Thing) == Thing(number=7)
    assert await client.get(peer.url, into=bytes) == GOOD
    assert await client.get(peer.url, into=list[int]) == [7]
    full = await client.get(peer.url, into=Answer, params={"page": 2}, headers={"X-Key": "k"})
    assert (full.status, full.headers["ETag"], full.body) == (200, "x", GOOD)
    either: TypeAdapter[list[int] | None] = TypeAdapter(list[int] | None)
    assert await client.request("POST", peer.url, json=full_of(8), into=either) == [7, 8]

    assert peer.connections == 1
    assert peer.requests[3].startswith("GET /things?token=secret&page=2 ")
    assert "X-Key: k" in peer.requests[3]
    assert "Content-Type: application/json" in peer.requests[4]
    assert peer.requests[4].endswith('{"number":8}')


def logged(error: BaseException) -> str:
    """Return the error with its causes, as a log has them, without the lines of this file."""
    return "".join(traceback.format_exception(error.with_traceback(None)))


def full_of(number: int) -> Thing:
    return Thing(number=number)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(b"{"), "1 errors, the first:  Invalid JSON: EOF while parsing"),
        (answer(b'{"number": "secret"}'), "1 errors, the first: number Input should be a valid"),
        (answer(b"\xff\xfe"), "Invalid JSON"),
        (answer(b""), "Invalid JSON"),
        (answer(status=404), "status 404"),
        (answer(status=500), "status 500"),
        (answer(b"", 302, location="/other"), "status 302"),
        (answer(b"x" * (LIMIT + 1)), "more than HTTP_MAX_RESPONSE_BYTES"),
        (raw(CHUNKED, again=b"400\r\n" + b"x" * 1024 + b"\r\n"), "more than HTTP_MAX"),
        (answer(gzip.compress(b"0" * 10**7), content_encoding="gzip"), "more than HTTP_MAX"),
        (answer(b"no gzip at all", content_encoding="gzip"), "not in its Content-Encoding"),
    ],
)
async def test_an_answer_of_no_use_is_a_502_and_not_asked_for_again(
    client: HttpClient, peer: Peer, reply: Reply, reason: str
) -> None:
    peer.replies = [reply]

    with pytest.raises(BadAnswer) as caught:
        await client.get(peer.url, into=Thing)

    assert caught.value.status == 502
    assert len(peer.requests) == 1
    assert "GET 127.0.0.1: " in logged(caught.value)
    assert reason in logged(caught.value)
    assert "secret" not in logged(caught.value)


FAILURES = {
    "reset": raw(b"", closes=True),
    "cut off": raw(OK + b"content-length: 9\r\n\r\nx", closes=True),
    "no HTTP": raw(b"220 mail.example.org ESMTP\r\n\r\n", closes=True),
    "head without end": raw(OK, again=b"x: " + b"y" * 4000 + b"\r\n"),
    "silent": hang,
    "unavailable": answer(b"", 503),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_only_a_call_that_may_run_twice_is_sent_again(
    client: HttpClient, peer: Peer, failure: str
) -> None:
    peer.replies = [FAILURES[failure]]
    for method, idempotent, sent in (("POST", None, 1), ("GET", None, 1 + RETRIES)):
        peer.requests.clear()
        with pytest.raises(Unavailable) as caught:
            await client.request(method, peer.url, into=bytes, idempotent=idempotent)
        assert isinstance(caught.value.__cause__, client_module.CallFailed)
        assert "secret" not in logged(caught.value)
        assert len(peer.requests) == sent


async def test_a_test_makes_no_call_and_its_answer_is_no_error_of_the_service(
    opening: Open, peer: Peer
) -> None:
    assert get_settings().http_offline
    for only_public in (False, True):
        async with opening(only_public, offline=True) as client:
            with pytest.raises(Unavailable) as caught:
                await client.request("POST", peer.url, into=bytes, json={})
            document = problem_response(HTTPStatus.SERVICE_UNAVAILABLE, caught.value.detail)
            assert lacks_other_service(bytes(document.body))
    assert not lacks_other_service(b'{"detail":"The database is unavailable."}')
    assert peer.requests == []


async def test_a_retry_may_succeed_also_of_a_post_with_a_key(
    client: HttpClient, peer: Peer
) -> None:
    peer.replies = [answer(b"", 503), answer(b"", 429, retry_after="0"), answer()]

    thing = await client.request("POST", peer.url, into=Thing, json={}, idempotent=True)

    assert (thing.number, len(peer.requests)) == (7, 3)


async def test_a_wait_beyond_the_deadline_is_not_begun(client: HttpClient, peer: Peer) -> None:
    peer.replies = [answer(b"", 429, retry_after="2")]

    with pytest.raises(Unavailable):
        await client.get(peer.url, into=bytes)

    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    "reply",
    [raw(CHUNKED, again=b"1\r\nx\r\n", pause_s=0.02), raw(b"", again=OK[:9] + b"103 \r\n\r\n")],
)
async def test_a_call_ends_at_its_deadline_whatever_arrives(
    client: HttpClient, peer: Peer, reply: Reply
) -> None:
    peer.replies = [reply]

    with pytest.raises(Unavailable):
        await client.get(peer.url, into=bytes, timeout_s=0.15)

    await asyncio.wait_for(peer.left.wait(), 5)


async def test_a_connection_that_the_server_closed_while_idle_is_replaced(
    client: HttpClient, peer: Peer
) -> None:
    closing = raw(OK + b"content-length: 13\r\n\r\n" + GOOD, closes=True)
    peer.replies = [closing]

    for _ in range(3):
        assert await client.get(peer.url, into=Thing)

    assert len(peer.requests) == 3


async def test_calls_in_flight_to_a_host_are_bounded_and_a_cancelled_one_frees_its_place(
    opening: Open, peer: Peer
) -> None:
    peer.replies = [hang, hang, answer()]
    async with opening(max_in_flight=2, read_timeout_s=30) as client:
        held = [asyncio.create_task(client.get(peer.url, into=bytes)) for _ in range(2)]
        while len(peer.requests) < 2:
            await asyncio.sleep(0)

        with pytest.raises(Unavailable) as caught:
            await client.get(peer.url, into=bytes)
        assert "HTTP_MAX_IN_FLIGHT" in str(caught.value.__cause__)
        assert len(peer.requests) == 2

        held[0].cancel()
        await asyncio.wait_for(peer.left.wait(), 5)
        assert await client.get(peer.url, into=Thing)
        held[1].cancel()
        await asyncio.wait(held)


async def test_a_host_that_fails_is_left_alone_until_one_call_succeeds(
    opening: Open, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer.replies = [answer(b"", 503)]
    async with opening(retries=0) as client:
        for _ in range(hosts.FAILURES + 3):
            with pytest.raises(Unavailable):
                await client.get(peer.url, into=bytes)
        assert len(peer.requests) == hosts.FAILURES

        monkeypatch.setattr(hosts, "OPEN_S", 0.0)
        host = client._host(f"127.0.0.1:{peer.port}")
        host.note(failed=True, now_s=0.0)
        peer.replies = [answer()]
        for _ in range(3):
            assert await client.get(peer.url, into=Thing)


async def test_a_host_that_hangs_is_left_alone_also_when_the_caller_ends_the_call(
    opening: Open, peer: Peer
) -> None:
    peer.replies = [hang]
    async with opening(retries=0, read_timeout_s=30) as client:
        for _ in range(hosts.FAILURES):
            with pytest.raises(Unavailable) as caught:
                await client.get(peer.url, into=bytes, timeout_s=client_module.FAIR_TIME_S + 0.05)
            assert "TimeoutError" in logged(caught.value)
        for _ in range(3):
            with pytest.raises(Unavailable) as caught:
                await client.get(peer.url, into=bytes, timeout_s=30)
            assert "its circuit is open" in logged(caught.value)
    assert len(peer.requests) == hosts.FAILURES


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
async def test_a_wrong_time_limit_is_an_error(
    client: HttpClient, peer: Peer, timeout_s: float
) -> None:
    with pytest.raises(ValueError, match="timeout_s: expected"):
        await client.get(peer.url, into=bytes, timeout_s=timeout_s)
    assert peer.connections == 0


async def test_a_wait_for_a_slot_is_within_the_deadline(
    opening: Open, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUEUE_TIMEOUT_S", 30)
    peer.replies = [hang]
    async with opening(max_in_flight=1, read_timeout_s=30) as client:
        held = asyncio.create_task(client.get(peer.url, into=bytes))
        while not peer.requests:
            await asyncio.sleep(0)
        async with asyncio.timeout(10):
            with pytest.raises(Unavailable) as caught:
                await client.get(peer.url, into=bytes, timeout_s=0.05)
        assert "HTTP_MAX_IN_FLIGHT" in logged(caught.value)
        held.cancel()
        await asyncio.wait([held])


async def test_only_failures_of_the_host_open_the_circuit(opening: Open, peer: Peer) -> None:
    async with opening(retries=0) as client:
        peer.replies = [hang]
        for _ in range(hosts.FAILURES):
            with pytest.raises(Unavailable):
                await client.get(peer.url, into=bytes, timeout_s=0.01)
        peer.requests.clear()
        peer.replies = [answer(b"", 503)] * (hosts.FAILURES - 1) + [answer(b"x" * (LIMIT + 1))]
        for _ in peer.replies[1:]:
            with pytest.raises(Unavailable):
                await client.get(peer.url, into=bytes)
        with pytest.raises(BadAnswer):
            await client.get(peer.url, into=bytes)
        host = client._host(f"127.0.0.1:{peer.port}")
        assert host._failures == 0


async def test_a_request_without_time_left_ends_its_calls_and_opens_no_circuit(
    opening: Open, peer: Peer
) -> None:
    peer.replies = [hang] * 6 + [answer()]
    async with opening(retries=0, read_timeout_s=10.0) as client:
        for _ in range(6):
            with limited(0.5), pytest.raises(DeadlineExceeded, match=r"within 0\.5 s"):
                await client.get(peer.url, into=Thing)
        with limited(-1), pytest.raises(DeadlineExceeded):
            await client.get(peer.url, into=Thing)
        assert await client.get(peer.url, into=Thing) == Thing(number=7)
    assert len(peer.requests) == 7
    limits = [each.partition("X-Request-Timeout: ")[2].partition("\r")[0] for each in peer.requests]
    assert all(0 < float(limit) <= 0.5 for limit in limits[:6])
    assert 9 < float(limits[6]) <= 10


@contextmanager
def limited(limit_s: float) -> Iterator[None]:
    """Run in a request with so much time left."""
    request = Load()
    request.limit_s = lambda **_: limit_s  # type: ignore[method-assign]
    token = current.set(request)
    try:
        yield
    finally:
        current.reset(token)


def test_an_open_circuit_lets_one_call_through_at_a_time() -> None:
    host = Host(1)
    for _ in range(hosts.FAILURES):
        assert host.admits(0.0)
        host.note(failed=True, now_s=0.0)

    soon, later = hosts.OPEN_S - 1, hosts.OPEN_S
    assert [host.admits(soon), host.admits(later), host.admits(later)] == [False, True, False]
    assert host.admits(later + hosts.OPEN_S), "the first of them may have been cancelled"
    host.note(failed=False, now_s=later)
    assert [host.admits(later), host.admits(later)] == [True, True]


def test_retries_are_a_tenth_of_the_calls_after_the_first_ones() -> None:
    host = Host(1)
    retried = 0
    for _ in range(1000):
        host.note(failed=True, now_s=0.0)
        retried += host.may_retry()

    assert retried == pytest.approx(hosts.RETRY_BUDGET + 1000 * hosts.RETRY_SHARE, abs=2)


def test_waits_are_random_and_grow() -> None:
    for attempt, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (10, hosts.LONGEST_WAIT_S)):
        waits = [wait_before(attempt) for _ in range(200)]
        assert 0 <= min(waits) < longest / 4
        assert longest * 3 / 4 < max(waits) <= longest


def test_both_forms_of_retry_after_are_read() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert wait_before(1, "30") == 30
    assert 55 < wait_before(1, soon) <= 60
    past, never = "Wed, 21 Oct 2015 07:28:00 GMT", "Mon, 01 Jan 99999999999 00:00:00 GMT"
    for text in ("", "-1", "soon", "1e9", "²", past, never):
        assert wait_before(1, text) <= hosts.FIRST_WAIT_S


async def test_redirects_are_followed_only_if_asked_and_without_headers_to_others(
    client: HttpClient, peer: Peer
) -> None:
    other = f"http://127.0.0.2:{peer.port}/other"
    moved = answer(b"", 302, location="/moved")
    peer.replies = [moved, answer(b"", 307, location=other), answer()]

    thing = await client.get(peer.url, into=Thing, headers={"X-Key": "k"}, redirects=2)

    assert thing.number == 7
    assert ["X-Key" in request for request in peer.requests] == [True, True, False]
    peer.replies = [moved]
    wrong = ("ftp://x", "http://x:99999/", "http://[1::2::3]/", "http://me:key@x/", "http://a..b/")
    for redirects, location in ((3, None), (0, None), *((1, each) for each in wrong)):
        peer.requests.clear()
        peer.replies = [answer(b"", 302, location=location) if location else moved]
        with pytest.raises(BadAnswer):
            await client.get(peer.url, into=bytes, redirects=redirects)
        assert len(peer.requests) == (1 if location else redirects + 1)
    with pytest.raises(BadAnswer):
        await client.request("POST", peer.url, into=bytes, redirects=3)

    peer.replies = [moved, answer(b"", 307, location=other), answer()]
    peer.requests.clear()
    await client.request("GET", peer.url, into=Thing, content=b"[7]", redirects=2)
    assert ["[7]" in request for request in peer.requests] == [True, True, False]


NOT_PUBLIC = """
127.0.0.1 127.8.8.8 0.0.0.0 10.1.2.3 172.31.0.1 192.168.1.1 169.254.169.254 100.64.0.1 224.0.0.1
240.0.0.1 255.255.255.255 192.0.2.1 198.18.0.1 ::1 :: ::ffff:127.0.0.1 ::ffff:10.0.0.1
::ffff:169.254.169.254 ::127.0.0.1 fe80::1 fe80::1%1 fc00::1 fd12::1 fec0::1 ff02::1 2001:db8::1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 2002:7f00:1:: 2002:a00:1::
192.0.0.9 192.88.99.1 168.63.129.16 ::ffff:168.63.129.16 64:ff9b::a83f:8110 3fff::1
"""


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("64:ff9b::5db8:d70e", True),
        *((address, False) for address in NOT_PUBLIC.split()),
    ],
)
def test_addresses_of_the_public_internet_are_known(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


PRIVATE = "not public"
NO_URL = "Expected a URL"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:{}/", PRIVATE),
        ("http://localhost:{}/", PRIVATE),
        ("http://0x7f000001:{}/", PRIVATE),
        ("http://[::ffff:127.0.0.1]:{}/", PRIVATE),
        ("http://[::1]:{}/", PRIVATE),
        ("http://0:{}/", "URL"),
        ("http://127.1:{}/", NO_URL),
        ("http://2130706433:{}/", NO_URL),
        ("file:///etc/passwd", NO_URL),
        ("gopher://127.0.0.1:{}/", NO_URL),
        ("//127.0.0.1:{}/", NO_URL),
        ("http://me:password@x:99999/", NO_URL),
        ("http://me:password@127.0.0.1:{}/", NO_URL),
        ("http://[1::2::3]:{}/", NO_URL),
        ("http://" + "a" * 300 + ".example/", NO_URL),
        ("", NO_URL),
    ],
)
async def test_a_url_of_a_client_leads_to_no_private_address(
    opening: Open, peer: Peer, url: str, reason: str
) -> None:
    async with opening(only_public=True) as client:
        with pytest.raises(Unprocessable, match=reason) as caught:
            await client.get(url.format(peer.port), into=bytes)

    assert "password" not in logged(caught.value)
    assert peer.connections == 0


class Names:
    """Resolves names to addresses that a test chooses."""

    def __init__(self, **names: list[str]) -> None:
        self.names = names

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        base = {"hostname": host, "port": port, "family": 2, "proto": 0, "flags": 0}
        return [base | {"host": address} for address in self.names[host]]

    async def close(self) -> None: ...


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to(
    opening: Open, peer: Peer
) -> None:
    peer.replies = [answer(), answer(b"", 302, location=peer.url)]
    async with opening(only_public=True, private_networks=("127.0.0.2/32",)) as client:
        assert client._session is not None
        connector: Any = client._session.connector
        connector._resolver = Names(both=["127.0.0.1", "127.0.0.2"], private=["127.0.0.1"])

        assert await client.get(f"http://both:{peer.port}/", into=Thing)
        with pytest.raises(Unprocessable, match=PRIVATE):
            await client.get(f"http://private:{peer.port}/", into=Thing)
        with pytest.raises(Unprocessable, match=PRIVATE):
            await client.get(f"http://both:{peer.port}/", into=Thing, redirects=1)

    assert [("Host: both" in request) for request in peer.requests] == [True, True]


async def test_slow_names_of_clients_take_no_thread_of_the_event_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    threads: list[str] = []
    go = threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        threads.append(threading.current_thread().name)
        go.wait(10)
        return []

    monkeypatch.setattr("app.core.http_client.addresses.socket.getaddrinfo", look_up)
    resolver = Resolver(timeout_s=0.05)
    calls = [resolver.resolve(f"slow{number}.example") for number in range(3 * LOOKUPS)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    go.set()
    await resolver.close()

    assert {type(each) for each in results} == {TimeoutError}
    assert len(threads) == LOOKUPS
    assert all(name.startswith("resolver") for name in threads)


async def test_names_of_clients_are_found() -> None:
    resolver = Resolver(timeout_s=10)
    found = await resolver.resolve("localhost", 80)
    await resolver.close()

    assert {each["host"] for each in found} <= {"127.0.0.1", "::1"}
    assert {each["port"] for each in found} == {80}


async def test_an_error_of_the_call_itself_has_no_password(client: HttpClient, peer: Peer) -> None:
    with pytest.raises(ValueError, match=NO_URL) as caught:
        await client.get("https://me:password@x:99999/", into=bytes)
    assert "password" not in logged(caught.value)

    peer.replies = [answer(status=401)]
    with pytest.raises(BadAnswer) as refused:
        await client.get(
            f"http://me:password@127.0.0.1:{peer.port}/", into=bytes, headers={"X-Key": "password"}
        )
    error = refused.value
    assert "password" not in logged(error) + repr(error.answer)
    with pytest.raises(RuntimeError, match="lifecycle"):
        await HttpClient().get(peer.url, into=bytes)


async def test_nothing_of_one_call_or_of_the_shell_reaches_another(
    client: HttpClient, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    peer.replies = [answer(set_cookie="session=7; Path=/")]

    for _ in range(2):
        await client.get(peer.url, into=Thing)

    assert "session" not in peer.requests[1]


async def test_services_of_ours_get_the_id_and_the_trace_of_the_request_and_others_do_not(
    opening: Open, peer: Peer
) -> None:
    peer.replies = [answer()]
    request_id.begin("of-the-request")
    context = trace.SpanContext(7, 8, is_remote=True, trace_flags=trace.TraceFlags(1))
    with trace.use_span(trace.NonRecordingSpan(context)):
        for only_public, observers in ((False, http.observers), (True, public_http.observers)):
            async with opening(only_public, private_networks=("127.0.0.0/8",)) as client:
                client.observers = observers
                await client.get(peer.url, into=Thing)
    request_id.begin("")

    ours, theirs = peer.requests
    assert "X-Request-ID: of-the-request" in ours
    assert f"traceparent: 00-{7:032x}-" in ours
    assert "X-Request-ID" not in theirs
    assert "traceparent" not in theirs


NAME = "http_client_request_duration_seconds_count"


async def test_calls_are_measured_by_host_and_status_and_hosts_are_few(
    opening: Open, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(host: str, status: int) -> float:
        labels = {"host": host, "status": str(status)}
        samples = next(iter(metrics.DURATION.collect())).samples
        return sum(each.value for each in samples if (each.name, each.labels) == (NAME, labels))

    monkeypatch.setattr(metrics, "_hosts", set())
    monkeypatch.setattr(metrics, "MAX_HOST_SERIES", 1)
    peer.replies = [answer(b"", 503), raw(b"", closes=True), answer()]
    before = count("127.0.0.1", 200)
    async with opening() as client:
        client.observers = [metrics.measure]
        await client.get(peer.url, into=Thing)
        await client.get(peer.url.replace("0.1", "0.2"), into=Thing)
    async with opening(only_public=True, private_networks=("127.0.0.0/8",)) as client:
        client.observers = [metrics.measure]
        await client.get(peer.url, into=Thing)

    assert count("127.0.0.1", 200) == before + 1
    assert count("127.0.0.1", 503) >= 1
    assert count("127.0.0.1", 0) >= 1
    assert count("other", 200) >= 1
