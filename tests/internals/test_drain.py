"""A service that reloads, replaces workers or stops loses no request, and ends hung ones."""

import asyncio
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any, Self
from unittest.mock import AsyncMock, Mock

import orjson
import pytest
from httpx2 import Client, TransportError

from app.core.server import drain
from app.core.server import worker as server
from app.core.settings.telemetry import TelemetrySettings
from app.core.telemetry.requests import Telemetry
from tests.core.serving import serving
from tests.internals.commands import master_of, until, until_ended
from tests.internals.load import load
from tests.internals.server import served

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.timeout(120)
def test_reloads_new_workers_and_stops_lose_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    # The workers of the first end after some requests; the second is reloaded, then stopped.
    with (
        serving(WEB_CONCURRENCY="2", MAX_REQUESTS="100") as one,
        serving(WEB_CONCURRENCY="2", DRAIN_DELAY_S="60") as other,
    ):
        replaced, reloaded = (master_of(client.base_url.port) for client in (one, other))
        first, before = set(replaced.children()), set(reloaded.children())
        ports = [client.base_url.port or 0 for client in (one, other)]
        with load(*ports, clients=16) as requests:
            reloaded.send_signal(signal.SIGHUP)
            until(lambda: before.isdisjoint(reloaded.children()))
            until(lambda: first.isdisjoint(replaced.children()))

            other.get("/readyz").raise_for_status()
            reloaded.send_signal(signal.SIGTERM)
            until(lambda: drained(other))
            # It still listens, for load balancers that have not noticed yet.
            until(lambda: other.get("/livez").headers.get("connection") == "close")
            # The second one does not wait.
            reloaded.send_signal(signal.SIGTERM)
            until(lambda: not listens(other))
            answered = requests.answered
            until(lambda: requests.answered > answered + 50)
            until_ended(reloaded)

    assert requests.lost == []
    log = capsys.readouterr().out
    assert log.count("Stops in 60 s; readiness fails from now on") == 1
    assert "Traceback" not in log
    assert " ERROR " not in log


def test_an_instance_accepts_connections_until_the_delay_of_its_stop_is_over() -> None:
    with serving(WEB_CONCURRENCY="2", MAX_REQUESTS="50", DRAIN_DELAY_S="60") as client:
        master = master_of(client.base_url.port)
        client.get("/readyz").raise_for_status()
        master.send_signal(signal.SIGTERM)
        until(lambda: drained(client))
        # A worker that ends by itself leaves the sockets to the others.
        before = set(master.children())
        with load(client.base_url.port or 0) as requests:
            until(lambda: before.isdisjoint(master.children()))
        assert requests.lost == []
        client.get("/livez").raise_for_status()


def drained(client: Client) -> bool:
    return client.get("/readyz").status_code == 503


def listens(client: Client) -> bool:
    try:
        client.get("/livez")
    except TransportError:
        return False
    return True


async def hello(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def test_a_hung_request_is_refused_before_the_lifespan_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "REQUEST_DRAIN_S", 1)
    ended: list[str] = []
    hangs = asyncio.Event()

    async def hang(_scope: Any, _receive: Any, _send: Any) -> None:
        hangs.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    observe = Mock()
    application = Telemetry(hang, settings=TelemetrySettings(), observe=observe)
    async with served(application, ended) as (_, listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(GET)
        await hangs.wait()

    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"\r\nretry-after: 1" in head
    assert orjson.loads(body)["status"] == 503
    assert ended == ["startup", "cancelled", "shutdown"]
    assert observe.call_args.args[0].status == 503
    writer.close()


async def test_a_stop_answers_the_connections_that_wait_to_be_accepted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0)
    drain.announce()
    try:
        async with served(hello, []) as (running, listener):
            address = listener.getsockname()
            clients = [socket.socket() for _ in range(20)]
            # The event loop does not run, so they stay in the queue of the socket.
            for client in clients:
                client.setblocking(False)
                with suppress(BlockingIOError):
                    client.connect(address)
                client.send(GET)
            await running._stop_listening([listener])
            monkeypatch.setattr(running, "_stop_listening", AsyncMock())
            for client in clients:
                answer = await asyncio.get_running_loop().sock_recv(client, 1000)
                assert answer.startswith(b"HTTP/1.1 204 ")
                client.close()
    finally:
        drain.announce(False)


class Raced(socket.socket):
    """A socket to which a client connects between the last `accept` and the close."""

    client: socket.socket

    def dup(self) -> Self:
        copy = super().dup()
        # In a worker, the server has closed it.
        self.close()
        return copy

    def accept(self) -> Any:
        try:
            return super().accept()
        except BlockingIOError:
            with suppress(BlockingIOError):
                self.client.connect(self.getsockname())
            raise


@pytest.mark.skipif(sys.platform != "linux", reason="needs a filter of Linux")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_client_that_connects_while_the_last_socket_closes_is_refused(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drain.announce(ends_sockets=True)
    try:
        async with served(hello, []) as (running, _):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            raced = Raced(family)
            raced.setblocking(False)
            raced.bind((host, 0))
            raced.listen()
            with socket.socket(family) as client:
                client.setblocking(False)
                monkeypatch.setattr(Raced, "client", client, raising=False)
                address = raced.getsockname()
                await running._stop_listening([raced])
                monkeypatch.setattr(running, "_stop_listening", AsyncMock())
                # Not a reset, after which the client cannot know whether its request ran.
                with pytest.raises(ConnectionRefusedError):
                    await asyncio.get_running_loop().sock_connect(client, address)
    finally:
        drain.announce(False)


@pytest.mark.parametrize("close", ["shutdown", "timeout_keep_alive_handler"])
async def test_a_close_answers_a_request_that_has_arrived(close: str) -> None:
    loop = asyncio.get_running_loop()
    async with served(hello, []) as (running, listener):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            await loop.sock_sendall(client, GET)
            assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 204 ")
            # The event loop does not run, so the server has not read it.
            client.send(GET)
            (connection,) = running.server_state.connections
            getattr(connection, close)()
            assert (await loop.sock_recv(client, 1000)).startswith(b"HTTP/1.1 204 ")
            if close == "shutdown":
                assert await loop.sock_recv(client, 1000) == b""


@pytest.mark.parametrize("sent", [b"", b"x" * 100_000])
async def test_a_client_that_still_sends_its_body_reads_the_last_answer(sent: bytes) -> None:
    size = 4 * 1024**2
    head = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
    loop = asyncio.get_running_loop()
    async with served(closing, []) as (_, listener):
        with socket.socket() as client:
            client.setblocking(False)
            await loop.sock_connect(client, listener.getsockname())
            await loop.sock_sendall(client, head + sent)
            # A second request in the same data may not run.
            await loop.sock_sendall(client, b"x" * (size - len(sent)) + GET)
            answer = b""
            while part := await loop.sock_recv(client, 1000):
                answer += part
    assert answer.count(b"HTTP/1.1 204 ") == 1


async def closing(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def test_slow_clients_are_closed() -> None:
    async def read(scope: Any, receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        await hello(scope, receive, send)

    async with served(read, [], header_timeout_s=0.1, body_timeout_s=0.1) as (_, listener):
        address = listener.getsockname()
        streams = [await asyncio.open_connection(*address) for _ in range(3)]
        streams[1][1].write(GET[:-2])
        streams[2][1].write(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 5\r\n\r\n"))
        async with asyncio.timeout(10):
            answers = [await reader.read() for reader, _ in streams]
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [
        b"",
        b"",
        b"HTTP/1.1 408 Request Timeout",
    ]
    for _, writer in streams:
        writer.close()


async def test_a_worker_whose_resource_failed_ends() -> None:
    async with served(hello, []) as (server, _), asyncio.timeout(10):
        server.lifespan.error_occurred = True
        while not server.should_exit:
            await asyncio.sleep(0.01)


FORKED = """
import os, signal, sys
from types import SimpleNamespace
from app.core.server import drain
drain.delay_stop(SimpleNamespace(pid=os.getpid(), signal=lambda *_: None, reexec_pid=0), 0)
if not os.fork():
    signal.raise_signal(int(sys.argv[1]))
    os._exit(7)
sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_worker_that_has_not_started_ends_at_a_signal(number: signal.Signals) -> None:
    process = subprocess.run([sys.executable, "-c", FORKED, str(int(number))], check=False)

    assert process.returncode == 0


@pytest.mark.parametrize(("method", "ends"), [("GET", True), ("POST", False)])
async def test_a_read_ends_when_its_client_leaves(
    method: str, ends: bool, caplog: pytest.LogCaptureFixture
) -> None:
    began, left, cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def wait(_scope: Any, receive: Any, _send: Any) -> None:
        began.set()
        try:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()
            if ends:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    observe = Mock()
    application = Telemetry(wait, settings=TelemetrySettings(), observe=observe)
    async with served(application, []) as (_, listener):
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(GET.replace(b"GET", method.encode()))
        async with asyncio.timeout(10):
            await began.wait()
            writer.close()
            await (cancelled if ends else left).wait()
        assert cancelled.is_set() == ends
    assert observe.call_args.args[0].status == 499
    assert "Exception in ASGI application" not in caplog.text
