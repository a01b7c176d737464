import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from benchmarks.harness.drivers import ROOT
from benchmarks.harness.upstream import BODY, DELAY_S

REQUEST = b"GET /announcement HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n\r\n"


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks.harness.upstream", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def received(connection: socket.socket, count: int) -> bytes:
    """What comes until that many answers are there."""
    data = b""
    while data.count(b"HTTP/1.1 ") < count or not data.endswith((BODY, b"\r\n\r\n")):
        part = connection.recv(65_536)
        assert part, data
        data += part
    return data


def test_it_answers_after_the_delay_on_one_connection_until_it_is_stopped(process: subprocess.Popen[str]) -> None:
    assert process.stdout
    port = int(process.stdout.readline())
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        for _ in range(2):
            started = time.monotonic()
            connection.sendall(REQUEST)
            head, _, body = received(connection, 1).partition(b"\r\n\r\n")
            # Event loops count in milliseconds.
            assert time.monotonic() - started >= DELAY_S - 0.001
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"Content-Type: application/json" in head
            assert b"Content-Length: %d" % len(body) in head
            assert body == b'{"announcement":"Maintenance on Sunday from 02:00 to 03:00 UTC"}'

        # Pipelined, and cut in the middle of a request.
        connection.sendall(REQUEST + b"GET /other HTTP/1.1\r\nHost: x\r\n\r\n" + REQUEST[:20])
        first = received(connection, 2)
        connection.sendall(REQUEST[20:])
        answers = first + received(connection, 1)
        assert [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]] == [b"200", b"404", b"200"]

        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")
