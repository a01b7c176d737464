import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest

from benchmarks.harness import drivers
from benchmarks.harness.drivers import DriverError, Load, choose, lua_string, own, run, wrk, wrk_sample
from benchmarks.harness.results import QUANTILES, Sample
from benchmarks.tests.server import HANG, OK, Answer, response, serving

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
GET = b"GET /users/%d HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
REQUESTS = [GET % i for i in range(5)]
# wrk knows whole seconds only.
SECONDS = {own: 0.4, wrk: 1.0}
BOTH = [pytest.param(own, id="own"), pytest.param(wrk, id="wrk", marks=needs_wrk)]


@pytest.fixture(scope="module")
def upstream_port() -> Iterator[int]:
    """A server whose delay of 5 ms, not its speed or the client's, is the limit: rate = clients / latency."""
    command = [sys.executable, "-m", "benchmarks.harness.upstream", "0"]
    process = subprocess.Popen(command, cwd=drivers.ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.communicate(timeout=10)


@pytest.fixture
def without_wrk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.mark.parametrize("drive", BOTH)
def test_a_sample_says_what_the_server_answered(drive: Any) -> None:
    with serving(lambda _: OK) as server:
        sample = drive(Load(server.port, REQUESTS, clients=4, seconds=SECONDS[drive]))
    assert isinstance(sample, Sample)
    assert sample.answered > 50
    assert 0 <= len(server.requests) - sample.answered <= 4
    assert SECONDS[drive] <= sample.seconds < 1.5
    assert sample.errors == {}
    assert len(sample.latencies_ms) == len(QUANTILES)
    assert list(sample.latencies_ms) == sorted(sample.latencies_ms)
    assert 0 < sample.latencies_ms[0] < sample.latencies_ms[-1]
    assert 0 < sample.client_cores < 1.5


@pytest.mark.parametrize("drive", BOTH)
def test_requests_are_sent_as_given_in_order(drive: Any) -> None:
    body = bytes(range(256)) + b'"\\ddd]]'
    requests = [GET % 1, b"PATCH /x HTTP/1.1\r\nHost: y\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body), GET % 2]
    # Slow, because this server's thread shares its core.
    with serving(lambda _: Answer((response(),), delay_s=0.01)) as server:
        drive(Load(server.port, requests, clients=1, seconds=SECONDS[drive]))
    assert len(server.requests) > 6
    first = requests.index(server.requests[0])
    assert server.requests == list(islice(requests * len(server.requests), first, first + len(server.requests)))


@pytest.mark.parametrize("drive", BOTH)
def test_errors_are_not_among_the_answered(drive: Any) -> None:
    with serving(lambda i: Answer((response(503 if i % 4 == 3 else 200),))) as server:
        sample = drive(Load(server.port, REQUESTS, clients=1, seconds=SECONDS[drive]))
    assert set(sample.errors) == {"503" if drive is own else "status"}
    assert sum(sample.errors.values()) == pytest.approx(len(server.requests) / 4, abs=2)
    assert 0 <= len(server.requests) - sample.answered - sum(sample.errors.values()) <= 1


@pytest.mark.parametrize("drive", BOTH)
def test_a_closed_port_is_an_error_with_what_the_program_said(drive: Any) -> None:
    with serving(lambda _: OK) as server:
        pass
    with pytest.raises(DriverError, match=f"connect to 127.0.0.1:{server.port}"):
        drive(Load(server.port, REQUESTS, clients=2, seconds=1))


@pytest.mark.parametrize("drive", BOTH)
def test_nothing_answered_has_no_latencies(drive: Any) -> None:
    with serving(lambda _: HANG) as server:
        sample = drive(Load(server.port, REQUESTS, clients=2, seconds=SECONDS[drive]))
    assert (sample.answered, sample.latencies_ms, sample.latency_ms(0.5)) == (0, (), None)


@needs_wrk
def test_latencies_that_wrk_did_not_measure_are_taken_out() -> None:
    """wrk's own p95 is near 60 ms here: it adds 20 latencies for each slow request."""
    with serving(lambda i: Answer((response(),), delay_s=0.1 if i % 50 == 49 else 0.002)) as server:
        sample = wrk(Load(server.port, REQUESTS, clients=1, seconds=1))
    assert sample.answered > 100
    p95_ms, longest_ms = sample.latency_ms(0.95), sample.latency_ms(1.0)
    assert p95_ms is not None
    assert longest_ms is not None
    assert p95_ms < 30
    assert longest_ms >= 100


@needs_wrk
def test_threads_of_wrk_begin_at_different_requests() -> None:
    with serving(lambda _: Answer((response(),), delay_s=0.2)) as server:
        wrk(Load(server.port, [GET % i for i in range(100)], clients=2, seconds=1), threads=2)
    assert {request.split()[1] for request in server.requests[:2]} in (
        {b"/users/0", b"/users/50"},
        {b"/users/1", b"/users/50"},
    )


@needs_wrk
def test_both_agree_on_rate_and_latency(upstream_port: int) -> None:
    load = Load(upstream_port, [b"GET /announcement HTTP/1.1\r\nHost: x\r\n\r\n"], clients=8, seconds=1)
    for last_attempt in (False, False, True):
        samples: dict[Any, list[Sample]] = {own: [], wrk: []}
        for drive in (own, wrk, wrk, own):
            samples[drive].append(drive(load))
        rates = [median(sample.answered / sample.seconds for sample in samples[drive]) for drive in (own, wrk)]
        p50s = [median(sample.latency_ms(0.5) or 0 for sample in samples[drive]) for drive in (own, wrk)]
        close = [pair[0] == pytest.approx(pair[1], rel=0.1) for pair in (rates, p50s)]
        if all(close):
            break
        # Other processes may have had the cores.
        assert not last_attempt, f"rates {rates}, p50 {p50s}"


def test_the_open_loop_is_our_own(upstream_port: int) -> None:
    load = Load(upstream_port, [b"GET /announcement HTTP/1.1\r\nHost: x\r\n\r\n"], clients=8, seconds=0.5, rate=100)
    sample = choose("auto", seconds=1)(load)
    assert (sample.answered, sample.errors, sample.unanswered) == (50, {}, 0)
    with pytest.raises(DriverError, match="no open loop"):
        wrk(load)
    assert sample.max_lag_ms >= 0


@needs_wrk
def test_wrk_is_chosen_where_it_is_installed() -> None:
    assert choose("auto", seconds=3) == choose("wrk", seconds=3)
    assert choose("auto", seconds=3).version.startswith("wrk ")
    assert "Copyright" not in choose("auto", seconds=3).version


@needs_wrk
def test_wrk_measures_for_whole_seconds_only() -> None:
    assert choose("auto", seconds=0.5) == choose("own", seconds=0.5)
    with pytest.raises(DriverError, match=r"whole seconds, not 0\.5"):
        choose("wrk", seconds=0.5)


@pytest.mark.usefixtures("without_wrk")
def test_our_own_is_chosen_where_wrk_is_missing() -> None:
    assert choose("auto", seconds=3) == choose("own", seconds=3)
    assert "own client" in choose("auto", seconds=3).version
    with pytest.raises(DriverError, match="wrk is not installed"):
        choose("wrk", seconds=3)


def test_a_driver_that_is_not_known() -> None:
    with pytest.raises(DriverError, match="'ab' is not one of auto, own, wrk"):
        choose("ab", seconds=3)


@pytest.mark.parametrize("wrong", [{"requests": []}, {"clients": 0}, {"seconds": 0}, {"rate": 0}])
def test_a_load_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a load needs"):
        replace(Load(port=1, requests=REQUESTS, clients=1, seconds=1), **wrong)


@pytest.mark.parametrize(
    ("data", "literal"),
    [
        (b"GET /", b'"GET /"'),
        (b'a"\\\r\n', b'"a\\034\\092\\013\\010"'),
        (b"\xff1", b'"\\2551"'),
        (b"\x001", b'"\\0001"'),
    ],
)
def test_lua_literals(data: bytes, literal: bytes) -> None:
    assert lua_string(data) == literal


def test_what_wrk_counts_twice_is_counted_once() -> None:
    errors = {"connect": 1, "read": 2, "write": 4, "status": 10, "timeout": 20}
    result = {"requests": 100, "duration_us": 2_000_000, "cpu_s": 0.5, "latencies_us": [1500.0], "errors": errors}
    assert wrk_sample(result) == Sample(
        seconds=2.0,
        answered=70,
        errors={"connection": 7, "status": 10, "timeout": 20},
        latencies_ms=(1.5,),
        client_cores=0.25,
    )


PYTHON = [sys.executable, "-c"]


def test_a_program_that_fails_is_an_error_with_its_last_lines() -> None:
    with pytest.raises(DriverError, match=r"failed \(3\):\n(line \d\d\n){19}the end$"):
        run([*PYTHON, "print(*(f'line {i}' for i in range(99)), 'the end', sep='\\n'); exit(3)"], time_limit_s=20)


def test_a_program_that_does_not_end_is_killed() -> None:
    started = time.monotonic()
    with pytest.raises(DriverError, match=r"did not end within 1 s:\nhello"):
        run([*PYTHON, "import time; print('hello', flush=True); time.sleep(60)"], time_limit_s=1)
    assert time.monotonic() - started < 10
    assert not sleeping()


def test_a_program_is_killed_when_this_one_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(subprocess.Popen[str]):
        times = 0

        def communicate(self, *args: Any, **kwargs: Any) -> Any:
            self.times += 1
            if self.times == 1:
                raise KeyboardInterrupt
            return super().communicate(*args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run([*PYTHON, "import time; time.sleep(60)"], time_limit_s=20)
    assert not sleeping()


def sleeping() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "time.sleep(60)" in " ".join(child.cmdline())]


def test_a_program_can_be_kept_on_some_cores() -> None:
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system cannot pin processes")
    before = os.sched_getaffinity(0)
    core = max(before)
    shown = run([*PYTHON, "import os; print(os.sched_getaffinity(0))"], time_limit_s=20, cores=frozenset({core}))
    assert shown.strip() == str({core})
    assert os.sched_getaffinity(0) == before
