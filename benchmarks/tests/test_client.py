import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest

from benchmarks.harness.client import due_s, quantiles_ms
from benchmarks.harness.drivers import ROOT
from benchmarks.harness.http1 import ProtocolError, Response, chunks_end, parse_head
from benchmarks.harness.results import QUANTILES
from benchmarks.tests.server import HANG, OK, Answer, response, serving

CLIENT = [sys.executable, "-m", "benchmarks.harness.client"]
# As on a machine without uvloop.
ASYNCIO = "import sys; sys.modules['uvloop'] = None; from benchmarks.harness.client import main; main()"
GET = "GET /users/{} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def start(port: int, *, command: list[str] = CLIENT, **job: Any) -> subprocess.Popen[str]:
    job = {"host": "127.0.0.1", "port": port, "requests": [GET.format(i) for i in range(7)], "clients": 8} | job
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin
    process.stdin.write(json.dumps(job))
    process.stdin.close()
    process.stdin = None
    return process


def client(port: int, **job: Any) -> dict[str, Any]:
    process = start(port, **job)
    try:
        output, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert errors == ""
    result: dict[str, Any] = json.loads(output)
    assert len(result["latencies_ms"]) in (0, len(QUANTILES))
    assert result["latencies_ms"] == sorted(result["latencies_ms"])
    return result


def latency_ms(result: dict[str, Any], quantile: float) -> float:
    value: float = result["latencies_ms"][QUANTILES.index(quantile)]
    return value


def eventually(condition: Callable[[], bool], *, within_s: float = 5) -> bool:
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


RESPONSES = {
    "sized": (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, True),
    "lower case": (b"HTTP/1.1 201 Created\r\ndate: x\r\ncontent-length:5\r\nserver: y\r\n\r\nhello", 201, True),
    "upper case": (b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH:  5 \r\nCONNECTION: CLOSE\r\n\r\nhello", 200, False),
    "length of another thing": (b"HTTP/1.1 200 OK\r\nX-Content-Length: 9\r\nContent-Length: 2\r\n\r\nok", 200, True),
    "body like a head": (b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\na\r\n\r\nb\r\n", 200, True),
    "empty": (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 404, True),
    "no content": (b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", 204, True),
    "not modified": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 304, True),
    "no reason": (b"HTTP/1.1 500 \r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 500, True),
    "chunked": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n",
        200,
        True,
    ),
    "trailers": (b"HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n1\r\na\r\n0\r\nX: y\r\n\r\n", 200, True),
    "interim": (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, True),
}


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_is_complete_with_its_last_byte_however_it_is_cut(name: str) -> None:
    data, status, keep_alive = RESPONSES[name]
    cuts = [(i,) for i in range(1, len(data))] + [(i, j) for i in range(1, len(data)) for j in range(i + 1, len(data))]
    for cut in [(), *cuts]:
        reader = Response()
        starts, ends = [0, *cut], [*cut, len(data)]
        complete = [reader.feed(data[i:j]) for i, j in zip(starts, ends, strict=True)]
        assert complete == [False] * len(cut) + [True]
        assert (reader.status, reader.keep_alive) == (status, keep_alive)
        # The reader is as new.
        assert reader.feed(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n")
        assert (reader.status, reader.keep_alive) == (202, True)


def test_a_response_to_head_has_no_body() -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
    assert Response(to_head=True).feed(data)
    assert not Response().feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
        b"HTTP/1.1 200 OK\r\n" + b"x" * 70_000,
    ],
)
def test_what_is_not_one_sized_response_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Response().feed(data)


def test_incomplete_parts_are_waited_for() -> None:
    assert parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n") is None
    assert chunks_end(b"3\r\nabc\r\n0\r\n", 0) is None
    assert chunks_end(b"3\r\nabc\r\n0\r\n\r\n", 0) == 13


@pytest.mark.parametrize(
    ("rate", "due_ms"),
    [
        (1000, [0, 1, 2, 3, 4]),
        (300, [0, 3, 6, 10, 13]),
        (2000, [0, 0, 1, 1, 2]),
        (0.5, [0, 2000, 4000, 6000, 8000]),
    ],
)
def test_requests_are_due_at_a_constant_spacing_in_ticks(rate: float, due_ms: list[int]) -> None:
    assert [round(due_s(i, rate) * 1e3, 6) for i in range(5)] == due_ms


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantiles_ms([]) == []
    assert quantiles_ms([0.002]) == [2.0] * len(QUANTILES)
    hundred = quantiles_ms(i / 1e3 for i in range(100, 0, -1))
    assert [hundred[QUANTILES.index(q)] for q in (0.0, 0.01, 0.5, 0.95, 0.99, 0.995, 1.0)] == [
        1,
        1,
        50,
        95,
        99,
        100,
        100,
    ]


@pytest.mark.parametrize("command", [CLIENT, [sys.executable, "-c", ASYNCIO]], ids=["uvloop", "asyncio"])
def test_a_closed_loop_counts_what_the_server_answered(command: list[str]) -> None:
    with serving(lambda _: OK) as server:
        result = client(server.port, seconds=0.5, command=command)
    assert result["answered"] > 100
    assert 0 <= len(server.requests) - result["answered"] <= 8
    assert server.connections == 8
    assert (result["seconds"], result["errors"], result["unanswered"]) == (0.5, {}, 0)
    assert 0 < result["client_cores"] <= 1.1


def test_the_window_is_as_long_as_asked() -> None:
    # 4 clients, each answered every 50 ms: the answer at exactly 500 ms comes a little later and does not count.
    with serving(lambda _: Answer((response(),), delay_s=0.05)) as server:
        result = client(server.port, seconds=0.5, clients=4)
    assert 4 * 7 <= result["answered"] <= 4 * 9
    assert result["answered"] + 4 == len(server.requests)
    assert 50 <= latency_ms(result, 0.0) < 60


def test_requests_are_sent_as_given_in_order_over_and_over() -> None:
    body = '{"name":"\u00e9\u00ff"}'
    requests = [
        GET.format(0),
        f"PATCH /x HTTP/1.1\r\nHost: y\r\nContent-Length: {len(body)}\r\n\r\n{body}",
        GET.format(1),
    ]
    with serving(lambda _: OK) as server:
        client(server.port, seconds=0.2, clients=1, requests=requests)
    sent = [request.decode("latin-1") for request in server.requests]
    assert len(sent) > 3
    assert sent == list(islice(requests * len(sent), len(sent)))


def test_errors_are_counted_by_status() -> None:
    statuses = (200, 404, 200, 503, 204, 301)
    with serving(lambda i: Answer((response(statuses[i % 6], b""),))) as server:
        result = client(server.port, seconds=0.3, clients=1)
    count = len(server.requests)
    assert set(result["errors"]) == {"301", "404", "503"}
    for status in (301, 404, 503):
        sent = len(range(statuses.index(status), count, 6))
        assert 0 <= sent - result["errors"][str(status)] <= 1
    assert 0 <= count - result["answered"] - sum(result["errors"].values()) <= 1


@pytest.mark.parametrize(
    "answer",
    [
        Answer((b"HTTP/1.1 200 OK\r\nContent-", b"Length: 4\r\n\r\no", b"k", b"ay")),
        Answer((b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nokay\r\n", b"0\r\n\r\n")),
        Answer((response(200, b"x" * 1_000_000),)),
    ],
    ids=["in parts", "chunked", "large"],
)
def test_an_answer_may_come_in_parts(answer: Answer) -> None:
    with serving(lambda _: answer) as server:
        result = client(server.port, seconds=0.4)
    assert result["errors"] == {}
    assert result["answered"] > 10
    assert 0 <= len(server.requests) - result["answered"] <= 8


def test_a_server_may_close_connections_after_an_answer() -> None:
    answer = Answer((response(200, b"ok", b"Connection: close"),), close=True)
    with serving(lambda _: answer) as server:
        result = client(server.port, seconds=0.5)
    assert result["errors"] == {}
    assert result["answered"] > 16
    assert 0 <= len(server.requests) - result["answered"] <= 8
    assert server.connections >= result["answered"]


def test_a_connection_that_breaks_is_an_error_and_replaced() -> None:
    with serving(lambda i: Answer(close=True) if i % 10 == 9 else OK) as server:
        result = client(server.port, seconds=0.5)
    broken = len(server.requests) // 10
    assert set(result["errors"]) == {"connection"}
    assert broken > 3
    assert broken - 8 <= result["errors"]["connection"] <= broken
    assert 0 <= len(server.requests) - result["answered"] - result["errors"]["connection"] <= 8
    assert server.connections >= broken


def test_what_is_no_http_is_a_protocol_error() -> None:
    with serving(lambda i: OK if i else Answer((b"220 mail.example.org ESMTP\r\n\r\n",))) as server:
        result = client(server.port, seconds=0.5)
    assert result["errors"] == {"protocol": 1}
    assert result["answered"] > 10
    assert server.connections == 9


def test_a_request_that_is_not_answered_in_time_is_an_error_and_its_connection_replaced() -> None:
    with serving(lambda i: HANG if i < 4 else OK) as server:
        result = client(server.port, seconds=0.8, timeout_s=0.3)
    assert result["errors"] == {"timeout": 4}
    assert server.connections == 12
    assert 0 <= len(server.requests) - result["answered"] - 4 <= 8
    assert latency_ms(result, 1.0) < 300


def test_nothing_is_answered_by_a_server_that_hangs() -> None:
    with serving(lambda _: HANG) as server:
        result = client(server.port, seconds=0.2, timeout_s=0.2, rate=100)
    assert result["answered"] == 0
    assert set(result["errors"]) == {"timeout"}
    assert result["errors"]["timeout"] + result["unanswered"] == 20
    assert result["errors"]["timeout"] >= 16


def test_a_server_that_dies_is_a_connection_error() -> None:
    with serving(lambda _: OK) as server:
        process = start(server.port, seconds=0.8)
        assert eventually(lambda: len(server.requests) > 100)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    result = json.loads(output)
    assert set(result["errors"]) == {"connection"}
    # The requests in flight, and every attempt to connect again.
    assert result["errors"]["connection"] >= 16
    assert 100 - 8 <= result["answered"] <= len(server.requests)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("rate", [None, 100])
def test_a_closed_port_is_a_clear_error(rate: float | None) -> None:
    port = closed_port()
    process = start(port, seconds=1, rate=rate)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert output == ""
    assert errors.startswith(f"cannot connect to 127.0.0.1:{port}: ")
    assert len(errors.splitlines()) == 1


@pytest.mark.parametrize(("rate", "command"), [(150, CLIENT), (1500, CLIENT), (1500, [sys.executable, "-c", ASYNCIO])])
def test_an_open_loop_keeps_its_rate(rate: int, command: list[str]) -> None:
    with serving(lambda _: OK) as server:
        result = client(server.port, seconds=0.6, rate=rate, clients=64, command=command)
    assert result["errors"] == {}
    assert result["answered"] + result["unanswered"] == 0.6 * rate == len(server.requests)
    assert result["answered"] == pytest.approx(0.6 * rate, rel=0.02)
    assert 0 <= result["max_lag_ms"] < 500


def test_a_stall_shows_in_an_open_loop_as_it_would_to_users() -> None:
    """In a closed loop few requests meet the stall; that it hides the rest is what coordinated omission means."""

    def stalls_once(i: int) -> Answer:
        if i == 100:
            time.sleep(0.5)
        return OK

    with serving(stalls_once) as server:
        open_loop = client(server.port, seconds=1.25, rate=400, clients=4)
    with serving(stalls_once) as server:
        closed_loop = client(server.port, seconds=1, clients=4)
    assert open_loop["answered"] == 500
    # Two fifths of the requests were due in the stall, and waited for a half of it in the mean.
    assert latency_ms(open_loop, 0.99) > 400
    assert latency_ms(open_loop, 0.9) > 200
    assert latency_ms(open_loop, 0.5) < 100
    assert 450 < latency_ms(closed_loop, 1.0) < 1000
    assert latency_ms(closed_loop, 0.99) < 100


def test_an_overloaded_server_leaves_requests_unanswered() -> None:
    started = time.monotonic()
    # Two connections with 100 ms for each request: 20 a second, and 200 are due in each.
    with serving(lambda _: Answer((response(),), delay_s=0.1)) as server:
        result = client(server.port, seconds=0.5, rate=200, clients=2)
    assert time.monotonic() - started < 10
    assert result["unanswered"] > 30
    assert result["answered"] + result["unanswered"] == 100
    # What is answered after the window took time too: the rate is the server's own.
    assert result["answered"] / result["seconds"] == pytest.approx(20, rel=0.2)
    assert 0 <= len(server.requests) - result["answered"] <= 2
    # Waiting requests count: those that were due last have waited for two seconds.
    assert latency_ms(result, 1.0) > 2000


def test_idle_connections_that_the_server_closes_are_no_errors() -> None:
    # Each answer is followed by a close that was not announced, and the next request is due much later.
    with serving(lambda _: Answer((response(),), close=True)) as server:
        result = client(server.port, seconds=0.5, rate=20, clients=2)
    assert result["errors"] == {}
    assert result["answered"] == 10
    assert server.connections >= 10


def test_ctrl_c_is_left_to_the_parent() -> None:
    with serving(lambda _: OK) as server:
        process = start(server.port, seconds=0.5, rate=500)
        assert eventually(lambda: len(server.requests) > 20)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 0, errors
    assert json.loads(output)["answered"] == 250


def test_it_ends_when_its_parent_dies() -> None:
    job = {"host": "127.0.0.1", "requests": [GET.format(0)], "clients": 3, "seconds": 60}
    with serving(lambda _: OK) as server:
        parent = subprocess.Popen(
            [
                sys.executable,
                "-c",
                "import subprocess, sys; subprocess.run(sys.argv[2:], input=sys.argv[1], text=True)",
                json.dumps(job | {"port": server.port}),
                *CLIENT,
            ],
            cwd=ROOT,
            start_new_session=True,
        )
        try:
            assert eventually(lambda: len(server.requests) > 20)
            parent.kill()
            parent.wait()
            assert eventually(lambda: not server.open)
        finally:
            # The session's processes, should any be left.
            with suppress(ProcessLookupError):
                os.killpg(parent.pid, signal.SIGKILL)
            parent.wait()
