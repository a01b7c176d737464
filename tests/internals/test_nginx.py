"""The rendered nginx configuration, in front of real instances and of one that shows its requests.

nginx reads the file of production: compose.yaml's variables have the ports of these tests instead.
"""

import asyncio
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPException, HTTPResponse
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dev.guardian import stop
from dev.processes import free_port, log_of, serve, start, workspace
from tests.internals.declared import somebody
from tests.internals.local_http import Handler, served

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "deploy" / "nginx" / "nginx.conf.template"
HOST = "shop.example.com"
HEADERS = {"Host": HOST, "Content-Type": "application/json"}
# The most bytes of a body, in nginx and in the service.
MAX_BODY_BYTES = 100_000
# Threads that read, and threads that write, one request at a time.
CLIENTS = 4
# Requests of each kind between two events.
REQUESTS = 50
# The pause of a thread after a request; the longer one leaves CPU time for a start.
PAUSE_S, START_PAUSE_S = 0.002, 0.3
# A request or a start that takes longer has failed.
TIMEOUT_S = 30
# Of a message from one worker to another; these machines may be busy.
HEARD_S = 5.0


def find_nginx() -> str:
    """Return the program; skip the tests where there is none."""
    found = os.environ.get("NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if not found:
        pytest.skip(
            "NOT TESTED WITH NGINX: there is none; `apt-get install nginx-light`, or set NGINX"
        )
    return found


@contextmanager
def proxy(*ports: int) -> Iterator[tuple[int, Path]]:
    """Run nginx in front of the instances on these ports; yields its port and its log."""
    program = find_nginx()
    compose = (ROOT / "compose.yaml").read_text()
    options = re.findall(r"server \S+:8000 (.*;)", compose)
    assert len(options) == 2
    instances = [
        f"server 127.0.0.1:{port} {each}" for port, each in zip(ports, options, strict=False)
    ]
    with workspace() as directory:
        home = directory / "nginx"
        home.mkdir()

        def command(port: int) -> list[str]:
            variables = {
                "NGINX_TEMP": str(home),
                "NGINX_ACCESS_LOG": "/dev/stdout",
                "NGINX_PORT": f"127.0.0.1:{port}",
                "NGINX_DIRECTORY": str(home),
                "SERVER_NAME": HOST,
                "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
                "WEB_SERVERS": " ".join(instances),
            }
            assert {name for name in variables if f"{name}: " not in compose} == set()
            text = re.sub(r"\$\{(\w+)\}", lambda match: variables[match[1]], TEMPLATE.read_text())
            (home / "nginx.conf").write_text(text)
            subprocess.run(
                [program, "-t", "-q", "-c", f"{home}/nginx.conf"], check=True, timeout=10
            )
            return [program, "-c", f"{home}/nginx.conf", "-g", "daemon off;"]

        with serve(command, is_open, home) as port:
            yield port, log_of(home)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


# --- The rules, with an instance that shows the requests that reach it ---


class Mirror(Handler):
    """Answers with the method, path, headers and body that it received."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        seen = {
            "method": self.command,
            "path": self.path,
            "headers": {name.lower(): value for name, value in self.headers.items()},
            "count": len(self.headers.items()),
            "body": self.rfile.read(size).decode(),
            "padding": "x" * 2000,
        }
        body = json.dumps(seen).encode()
        headers = {
            "Content-Type": "application/json",
            "ETag": '"1"',
            "Cache-Control": "public, max-age=60",
        }
        self.answer(200, body, headers)

    do_POST = do_GET


@pytest.fixture(scope="module")
def mirrored() -> Iterator[tuple[int, Path]]:
    with served(Mirror) as url, proxy(int(url.rpartition(":")[2])) as running:
        yield running


def send(port: int, head: str, body: bytes = b"") -> tuple[HTTPResponse, bytes]:
    """Send bytes as they are; returns the response and its body."""
    lines = head.strip().splitlines()
    with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as client:
        client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        response = HTTPResponse(client)
        response.begin()
        return response, response.read()


def seen(port: int, head: str, body: bytes = b"") -> dict[str, Any]:
    """Send a request that reaches the instance; returns the request as it arrived."""
    response, content = send(port, head, body)
    assert response.status == 200
    request: dict[str, Any] = json.loads(content)
    return request


SPOOFED = f"""
GET /a%2Fb/../c?q=1 HTTP/1.1
Host: {HOST}:8080
X-Forwarded-For: 10.0.0.1
X-Forwarded-For: 10.0.0.2
X-Forwarded-Proto: https
X-Forwarded-Host: evil.example
X-Forwarded-Port: 1
X-Forwarded-Prefix: /evil
X-Real-IP: 10.0.0.3
Forwarded: for=10.0.0.4;proto=https
X_Forwarded_For: 10.0.0.5
X-Request-ID: bad id"
Upgrade: h2c
Connection: Upgrade, X-Kept
HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA
X-Kept: yes
"""


def test_no_forwarded_header_of_a_client_reaches_the_service(mirrored: tuple[int, Path]) -> None:
    request = seen(mirrored[0], SPOOFED)

    headers = request["headers"]
    assert request["path"] == "/a%2Fb/../c?q=1"
    assert {name: value for name, value in headers.items() if "forward" in name} == {
        "x-forwarded-for": "127.0.0.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": HOST,
    }
    assert headers["host"] == HOST
    assert headers["x-real-ip"] == "127.0.0.1"
    assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
    assert "upgrade" not in headers
    assert "connection" not in headers
    assert request["count"] == len(headers)


def test_a_well_formed_request_id_is_kept_and_logged(mirrored: tuple[int, Path]) -> None:
    port, log = mirrored
    head = f"GET /id?token=secret HTTP/1.1\nHost: {HOST}\nX-Request-ID: abc-123"

    assert seen(port, head)["headers"]["x-request-id"] == "abc-123"
    # nginx logs a request after its answer.
    eventually(lambda: '"abc-123"' in log.read_text())
    lines = [json.loads(line) for line in log.read_text().splitlines() if '"abc-123"' in line]
    assert [(line["path"], line["status"], line["client"]) for line in lines] == [
        ("/id", 200, "127.0.0.1")
    ]
    assert "secret" not in log.read_text()


def test_a_websocket_may_upgrade(mirrored: tuple[int, Path]) -> None:
    head = f"GET / HTTP/1.1\nHost: {HOST}\nConnection: Upgrade\nUpgrade: WebSocket"

    headers = seen(mirrored[0], head)["headers"]
    assert (headers["connection"], headers["upgrade"]) == ("upgrade", "websocket")


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1\nHost: evil.example",
        f"GET / HTTP/1.1\nHost: {HOST}.evil.example",
        f"GET http://evil.example/ HTTP/1.1\nHost: {HOST}",
        "GET / HTTP/1.0",
    ],
)
def test_another_host_does_not_reach_the_service(mirrored: tuple[int, Path], head: str) -> None:
    response, content = send(mirrored[0], head)

    assert response.status == 421
    assert json.loads(content)["title"] == "Misdirected Request"


def test_an_absolute_url_sets_the_host(mirrored: tuple[int, Path]) -> None:
    head = f"GET http://{HOST}/ HTTP/1.1\nHost: evil.example"

    headers = seen(mirrored[0], head)["headers"]
    assert (headers["host"], headers["x-forwarded-host"]) == (HOST, HOST)


@pytest.mark.parametrize(
    ("head", "body", "status"),
    [
        (f"POST / HTTP/1.1\nHost: {HOST}\nContent-Length: {MAX_BODY_BYTES}", True, 200),
        (f"POST / HTTP/1.1\nHost: {HOST}\nContent-Length: {MAX_BODY_BYTES + 1}", False, 413),
        (f"GET / HTTP/1.1\nHost: {HOST}\nX: {'x' * 8000}\nY: {'y' * 8000}", False, 200),
        (f"GET / HTTP/1.1\nHost: {HOST}\nX: {'x' * 33_000}", False, 431),
        (f"GET / HTTP/1.1\nHost: {HOST}\nContent-Length: 1, 2", False, 400),
        ("garbage", False, 400),
        (f"GET /{'x' * 9000} HTTP/1.1\nHost: {HOST}", False, 414),
        (f"TRACE / HTTP/1.1\nHost: {HOST}", False, 405),
        (f"CONNECT / HTTP/1.1\nHost: {HOST}", False, 405),
        ("TRACE / HTTP/1.1\nHost: evil.example", False, 405),
        (f"POST / HTTP/1.1\nHost: {HOST}\nTransfer-Encoding: unknown", False, 501),
        ("POST / HTTP/1.1\nHost: evil.example\nTransfer-Encoding: unknown", False, 501),
        (f"GET / HTTP/3.0\nHost: {HOST}", False, 505),
    ],
)
def test_the_limits_of_nginx_answer_as_the_service_does(
    mirrored: tuple[int, Path], head: str, body: bool, status: int
) -> None:
    response, content = send(mirrored[0], head, b"x" * MAX_BODY_BYTES if body else b"")

    assert response.status == status
    assert response.getheader("Server") in ("nginx", "BaseHTTP")  # no version
    if status != 200:
        assert response.getheader("Content-Type") == "application/problem+json"
        assert response.getheader("Cache-Control") == "no-store"
        assert json.loads(content)["status"] == status


def test_nginx_itself_stores_no_response(mirrored: tuple[int, Path]) -> None:
    for user in ("Bearer ada", "Bearer grace"):
        head = f"GET /me HTTP/1.1\nHost: {HOST}\nAuthorization: {user}"
        assert seen(mirrored[0], head)["headers"]["authorization"] == user


def test_a_long_response_is_compressed_for_clients_that_ask(mirrored: tuple[int, Path]) -> None:
    head = f"GET / HTTP/1.1\nHost: {HOST}\nVia: 1.1 cdn\nAccept-Encoding: gzip"
    response, content = send(mirrored[0], head)

    assert response.getheader("Content-Encoding") == "gzip"
    assert response.getheader("Vary") == "Accept-Encoding"
    assert response.getheader("ETag") == 'W/"1"'
    assert len(content) < 1000 < len(gzip.decompress(content))


# --- Two instances of this service ---


class Instance:
    """One instance of this service, which may be killed, stopped and started again."""

    def __init__(self, home: Path) -> None:
        self.port = free_port()
        self._home = home
        home.mkdir()
        self.start()

    def start(self) -> None:
        variables = {
            "PORT": str(self.port),
            "WEB_CONCURRENCY": "1",
            "MAX_BODY_BYTES": str(MAX_BODY_BYTES),
            "TRUSTED_PROXIES": "127.0.0.1/32",
            "ALLOWED_HOSTS": HOST,
            "DRAIN_DELAY_S": "0",
        }
        command = [sys.executable, "-m", "app", "serve"]
        self._process = start(command, self._home, cwd=ROOT, variables=variables)

    def wait(self) -> None:
        eventually(lambda: is_open(self.port))

    def kill(self) -> None:
        """Kill it with its workers, as a host that loses its power."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(TIMEOUT_S)

    def stop(self) -> None:
        """Stop it as a deploy does."""
        self._process.terminate()
        assert self._process.wait(TIMEOUT_S) == 0

    def end(self) -> None:
        stop(self._process)
        print(log_of(self._home).read_text())


def eventually(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(TIMEOUT_S * 50):
        if condition():
            return
        waiting.wait(0.02)
    pytest.fail("it did not happen in time")


class Load:
    """Threads that read and write without a pause through nginx, each on a kept connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._headers = HEADERS | somebody()
        self._ended = threading.Event()
        self._pause_s = PAUSE_S
        self._lock = threading.Lock()
        self.done = {"GET": 0, "POST": 0}
        self.failed: list[str] = []
        self._threads = [
            threading.Thread(target=self._run, args=(method, f"{method}-{number}"), daemon=True)
            for number in range(CLIENTS)
            for method in self.done
        ]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join(TIMEOUT_S)

    def more(self) -> None:
        """Wait for some more requests of each kind."""
        goal = {method: count + REQUESTS for method, count in self.done.items()}
        eventually(lambda: all(self.done[method] >= goal[method] for method in goal))

    def start(self, instance: Instance) -> None:
        """Start an instance again, and send it some requests."""
        self._pause_s = START_PAUSE_S
        instance.start()
        instance.wait()
        self._pause_s = PAUSE_S
        self.more()

    def _run(self, method: str, name: str) -> None:
        with closing(HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)) as connection:
            for number in count():
                if self._ended.wait(self._pause_s):
                    break
                self._send(connection, method, name, number)

    def _send(self, connection: HTTPConnection, method: str, name: str, number: int) -> None:
        user = {"email": f"{name.lower()}-{number}@example.com", "name": name}
        path, body = "/users", json.dumps(user)
        if method == "GET":
            path, body = f"/users?limit={1 + number % 100}", ""
        try:
            connection.request(method, path, body or None, self._headers)
            response = connection.getresponse()
            content = response.read()
            problem = "" if response.status in (200, 201) else f"{response.status} {content!r}"
        except (OSError, HTTPException) as error:
            connection.close()
            problem = repr(error)
        with self._lock:
            self.done[method] += 1
            if problem:
                self.failed.append(f"{method} {number}: {problem}")


@pytest.mark.usefixtures("database")
async def test_two_instances_lose_no_request_that_may_be_sent_again() -> None:
    await asyncio.to_thread(_lose_and_restart)


def _lose_and_restart() -> None:
    find_nginx()
    with workspace() as directory, ExitStack() as running:
        one, other = (Instance(directory / name) for name in ("one", "other"))
        for instance in (one, other):
            running.callback(instance.end)
            instance.wait()
        port, _ = running.enter_context(proxy(one.port, other.port))
        with Load(port) as load:
            load.more()
            one.kill()
            load.more()
            lost = list(load.failed)
            load.start(one)
            for instance in (other, one):
                instance.stop()
                load.start(instance)
        # Nobody sends a POST again that the killed instance had received: it may have been
        # carried out. Its client gets a 502.
        assert [each for each in lost if not re.match("POST .*: 502 ", each)] == []
        # Or it waited in the queue of the listening socket, which ends a moment after the worker.
        assert len(lost) <= 2 * CLIENTS
        assert load.failed[len(lost) :] == []
        _write_and_read(port)


def _write_and_read(port: int) -> None:
    """Check that both instances show a write to one of them, through nginx."""

    def call(method: str, path: str, **body: str) -> dict[str, Any]:
        with closing(HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)) as connection:
            connection.request(method, path, json.dumps(body) if body else None, headers)
            response = connection.getresponse()
            assert response.status in (200, 201)
            answer: dict[str, Any] = json.loads(response.read())
            return answer

    headers = HEADERS | somebody()
    user = call("POST", "/users", email="ada@example.com", name="Ada")
    for name in ("Grace", "Alan"):
        # Both have it in their memory.
        for _ in range(4):
            call("GET", f"/users/{user['id']}")
        call("PATCH", f"/users/{user['id']}", name=name)
        deadline = time.monotonic() + HEARD_S
        while {call("GET", f"/users/{user['id']}")["name"] for _ in range(4)} != {name}:
            assert time.monotonic() < deadline
