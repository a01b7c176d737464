"""The streams of the README end cleanly with their worker, and clients go on at the next one."""

import re
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import httpx2
import psutil
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from dev.processes import free_port
from tests.core.serving import ROOT, program, serving

PATH = "/order-events"
APPLICATION = ROOT / "app" / "orders" / "streams.py"


def test_the_readme_shows_this_code() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)

    assert APPLICATION.read_text() in blocks


class Streams:
    """An event stream and a WebSocket of one service."""

    def __init__(self, base_url: str, stack: ExitStack, *, last: int = 0) -> None:
        client = stack.enter_context(httpx2.Client(base_url=base_url, timeout=20))
        headers = {"Last-Event-ID": str(last)}
        events = stack.enter_context(client.stream("GET", PATH, headers=headers))
        assert events.headers["content-type"].startswith("text/event-stream")
        assert events.headers["cache-control"] == "private, no-store"
        self.lines = iter(events.iter_lines())
        url = f"{base_url.replace('http', 'ws', 1)}{PATH}?after={last}"
        self.socket: ClientConnection = stack.enter_context(connect(url))

    def assert_next(self, order: int) -> None:
        """Assert that the next order of both streams is this one."""
        assert next(line for line in self.lines if line.startswith("id:")) == f"id: {order}"
        assert f'"id":{order},' in str(self.socket.recv(timeout=10))

    def assert_end(self) -> None:
        """Assert that both end, and not by a lost connection, which would raise another error."""
        assert [*self.lines][-1:] in ([], [""])
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                self.socket.recv(timeout=20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def order(client: httpx2.Client) -> int:
    identifier: int = client.post("/orders", json={"item": "tea"}).raise_for_status().json()["id"]
    return identifier


def test_streams_end_at_a_reload_and_at_a_stop(
    stack: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(WEB_CONCURRENCY="2") as client:
        base_url = str(client.base_url)
        first = order(client)
        streams = Streams(base_url, stack, last=first - 1)
        streams.assert_next(first)
        psutil.Process(master(client)).send_signal(signal.SIGHUP)
        streams.assert_end()

        second = order(client)
        streams = Streams(base_url, stack, last=first)
        streams.assert_next(second)
    streams.assert_end()
    assert "Error" not in capsys.readouterr().out


def test_streams_end_with_a_worker_that_is_replaced(stack: ExitStack) -> None:
    with serving(WEB_CONCURRENCY="1", MAX_REQUESTS="20") as client:
        streams = Streams(str(client.base_url), stack)
        assert_same_site(f"{str(client.base_url).replace('http', 'ws', 1)}{PATH}")
        for _ in range(40):
            client.get("/livez").raise_for_status()
        streams.assert_end()


def assert_same_site(url: str) -> None:
    """Assert that a page opens a WebSocket of its own host only."""
    with connect(url, origin=Origin("http://127.0.0.1:3000")):
        pass
    with pytest.raises(InvalidStatus) as refused, connect(url, origin=Origin("https://e.example")):
        pass
    assert refused.value.response.status_code == 403


def master(client: httpx2.Client) -> int:
    """Return the process that listens, and has workers."""
    port = client.base_url.port
    for process in psutil.Process().children(recursive=True):
        listens = [each.laddr.port for each in process.net_connections() if not each.raddr]
        if port in listens and process.children():
            return int(process.pid)
    raise AssertionError


def test_streams_do_not_keep_development_from_its_reload(stack: ExitStack) -> None:
    port = free_port()
    base_url = f"http://127.0.0.1:{port}"
    arguments = ("fastapi", "dev", "--port", str(port))
    with program(*arguments, is_ready=lambda log: "startup complete" in log):
        streams = Streams(base_url, stack)
        APPLICATION.touch()
        streams.assert_end()
