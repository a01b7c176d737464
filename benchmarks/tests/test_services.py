"""A service that does not start, dies or loses a worker is an error with the end of its log, and never a number."""

import os
import signal
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from dev.processes import StartFailed, workspace

from benchmarks.harness import machine
from benchmarks.harness.drivers import Driver, DriverError, Load
from benchmarks.harness.environment import Environment
from benchmarks.harness.results import Round, Sample
from benchmarks.harness.rounds import answered_share, undisturbed, warm_up
from benchmarks.harness.services import Renderings, Service, ServiceDied, running

SERVER = """
    import http.server, os, sys
    print("a line of its log", flush=True)
    for _ in range(int(sys.argv[2])):
        if os.fork() == 0:
            break
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()
    class Server(http.server.ThreadingHTTPServer):
        allow_reuse_port = True
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def service(code: str) -> Service:
    def command(workers: int, port: int) -> list[str]:
        children = workers if workers > 1 else 0
        return [sys.executable, "-c", textwrap.dedent(code), str(port), str(children)]

    return Service("fragile", "for tests", command, lambda _cores: 1, lambda _rows, _directory: "/")


@pytest.fixture
def home() -> Iterator[Path]:
    with workspace() as path:
        yield path


def test_a_running_service_passes_and_is_gone_afterwards(home: Path) -> None:
    with running(service(SERVER), workers=2, cached=False, directory=home, variables={}, workspace=home) as one:
        one.wait_until_ready()
        one.check()
        processes = machine.tree([one.process])
        assert len(processes) == 3
        assert machine.memory_bytes(one.process) > 1_000_000
        assert machine.cpu_s([one.process]) > 0

    assert not psutil.wait_procs(processes, timeout=5)[1]


def test_a_service_that_dies_is_an_error_with_its_log(home: Path) -> None:
    with running(service(SERVER), workers=1, cached=False, directory=home, variables={}, workspace=home) as one:
        one.wait_until_ready()
        os.kill(one.process.pid, signal.SIGKILL)
        psutil.wait_procs([one.process], timeout=5)
        with pytest.raises(ServiceDied, match=r"(?s)fragile: a process ended; its log ends:.*a line of its log"):
            one.check()


def test_a_service_that_loses_a_worker_is_an_error_too(home: Path) -> None:
    with running(service(SERVER), workers=2, cached=False, directory=home, variables={}, workspace=home) as one:
        one.wait_until_ready()
        worker = psutil.Process(min(one.children))
        worker.kill()
        psutil.wait_procs([worker], timeout=1)
        with pytest.raises(ServiceDied, match="a process ended"):
            one.check()


def test_a_service_that_does_not_start_is_an_error_with_its_log(home: Path) -> None:
    broken = service("raise SystemExit('no such database')")
    with (
        pytest.raises(StartFailed, match=r"(?s)fragile ended with exit code 1; its log ends:.*no such database"),
        running(broken, workers=1, cached=False, directory=home, variables={}, workspace=home) as one,
    ):
        one.wait_until_ready()


def test_the_log_of_a_service_that_died_says_more_than_the_client(home: Path) -> None:
    def driver(_: Load) -> Sample:
        raise DriverError("cannot connect")

    load = Load(port=1, requests=[b""], clients=1, seconds=1)
    with running(service(SERVER), workers=1, cached=False, directory=home, variables={}, workspace=home) as one:
        one.wait_until_ready()
        nothing = Environment(home, {}, Renderings(home), cast(Any, None), (), one.process, True, {})
        with pytest.raises(DriverError):
            warm_up(one, load, cast(Driver, driver), nothing)
        os.kill(one.process.pid, signal.SIGKILL)
        psutil.wait_procs([one.process], timeout=5)
        with pytest.raises(ServiceDied, match="a line of its log"):
            warm_up(one, load, cast(Driver, driver), nothing)


def a_round(foreign_cores: float) -> Round:
    sample = Sample(seconds=1, answered=1, errors={}, latencies_ms=(), client_cores=0)
    return Round(sample, 0.5, 0.1, foreign_cores, 1, disturbed=foreign_cores > 0.1)


@pytest.mark.parametrize(
    ("foreign", "kept", "discarded"),
    [
        ([0.0], 0.0, 0),
        ([0.5, 0.05], 0.05, 1),
        ([0.5, 0.3, 0.4], 0.3, 2),
        ([0.5, 0.3, 0.01], 0.01, 2),
    ],
)
def test_disturbed_rounds_are_repeated_and_the_quietest_counts(
    foreign: list[float], kept: float, discarded: int
) -> None:
    rounds = map(a_round, foreign)

    one, thrown_away = undisturbed(lambda: next(rounds), lambda: True)

    assert (one.foreign_cores, thrown_away) == (kept, discarded)
    assert list(rounds) == []


def test_no_round_is_repeated_once_too_many_were() -> None:
    rounds = map(a_round, [0.5, 0.0])

    one, thrown_away = undisturbed(lambda: next(rounds), lambda: False)

    assert (one.disturbed, thrown_away) == (True, 0)


@pytest.mark.parametrize(
    ("answered", "errors", "rate", "share"),
    [
        (960, {}, None, 0.96),
        (60, {"503": 100}, None, 0.3),
        (0, {}, None, 1.0),
        # At a fixed rate the client waits for what it has sent.
        (100, {}, 50.0, 1.0),
    ],
)
def test_work_that_was_not_counted_is_not_charged(
    answered: int, errors: dict[str, int], rate: float | None, share: float
) -> None:
    sample = Sample(seconds=1, answered=answered, errors=errors, latencies_ms=(), client_cores=0)

    load = Load(port=1, requests=[b""], clients=40, seconds=1, rate=rate)

    assert answered_share(sample, load) == pytest.approx(share)
