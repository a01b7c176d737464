"""Measures the operation of the rendered service: telemetry, start-up, memory and restarts, in one table.

`nox -s bench-operations`, five minutes; `nox -s bench` measures the same after its rounds, for its goals.
Both sides of a comparison take turns, and the client is a process of its own.
"""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path
from statistics import median

from benchmarks.harness import machine, probes
from benchmarks.harness.results import Probe
from benchmarks.harness.services import CURSOR_SECRET, SERVICES, START_TIMEOUT_S, Running, cached_service, running

ROUNDS = 3
# Of the comparisons in process, for each round.
REPETITIONS = 13
CLIENTS = 8
RENDERED = SERVICES["rendered"]
# Us of CPU that the whole edge may add to a request, and how much more a start may take with compiled handlers.
EDGE_US = 25
START_TIMES = 1.1


def uvicorn(_workers: int, port: int) -> list[str]:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), *options]


WITHOUT_GUNICORN = dataclasses.replace(RENDERED, name="uvicorn", command=uvicorn)


class Bench:
    """The directory of the rendered service, the variables of its servers, and how often a figure is measured."""

    def __init__(self, home: Path, directory: Path, variables: Mapping[str, str], rounds: int = ROUNDS) -> None:
        self.home, self.directory, self.rounds = home, directory, rounds
        # A load balancer has to notice a stop.
        self.variables = {**variables, "DRAIN_DELAY_S": "1"}

    @contextmanager
    def service(self, kind: str, workers: int, *, port: int | None = None, **variables: str) -> Iterator[Running]:
        service = {"gunicorn": RENDERED, "uvicorn": WITHOUT_GUNICORN}[kind]
        started = running(
            service,
            workers=workers,
            cached=True,
            directory=self.directory,
            variables={**self.variables, **variables},
            workspace=self.home,
            port=port,
        )
        with started as one:
            one.wait_until_ready()
            yield one


def all_of(bench: Bench, say: Callable[[str], None]) -> Iterator[Probe]:
    """Measure everything, and yield each figure when it is there."""
    for title, measure in (
        ("the edge, in process", telemetry),
        ("starts and memory", starts),
        ("starts with compiled handlers and without", compiled_starts),
        ("restarts under load", restarts),
    ):
        say(f"operation: {title}")
        yield from measure(bench)


def telemetry(bench: Bench) -> list[Probe]:
    """CPU that the edge adds to a request, in process: see rendered/app/caches/probe.py."""
    process = subprocess.run(
        [sys.executable, "-m", "app.caches.probe", str(REPETITIONS * bench.rounds)],
        cwd=bench.directory,
        env={**os.environ, **bench.variables, "CURSOR_SECRET": CURSOR_SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    found = probes.result(process.stdout)
    return [
        probe("telemetry", "telemetry and metrics, of a request", "us of CPU", found["telemetry_us"]),
        probe("edge", "the whole edge, of a request", "us of CPU", found["edge_us"], at_most=EDGE_US),
    ]


def starts(bench: Bench) -> list[Probe]:
    """CPU and memory from the start to the first response, without and with gunicorn, and with two workers."""
    kinds = (("uvicorn", 1), ("gunicorn", 1), ("gunicorn", 2))
    cpu: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    memory: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(bench.rounds):
        for kind in kinds:
            with bench.service(*kind) as service:
                cpu[kind].append(cpu_s(service))
                memory[kind].append(
                    sum(each.memory_full_info().pss for each in machine.tree([service.process])) / 2**20
                )
    return [
        probe(
            f"{name}-{server}-{workers}",
            f"{server} with {workers} worker{'s'[: workers - 1]}, {title}",
            unit,
            found[server, workers],
        )
        for name, title, unit, found in (
            ("start", "start", "s of CPU", cpu),
            ("memory", "memory (PSS)", "MiB", memory),
        )
        for server, workers in kinds
    ]


def compiled_starts(bench: Bench) -> list[Probe]:
    """How many times more CPU the import and the start take with compiled handlers than with FastAPI's own."""
    ratios = []
    for _ in range(bench.rounds):
        seconds = {}
        for setting in ("true", "false"):
            with bench.service("gunicorn", 1, COMPILED_HANDLERS=setting) as service:
                seconds[setting] = cpu_s(service)
        ratios.append(seconds["true"] / seconds["false"])
    title = "CPU of import and start with compiled handlers, as a multiple of FastAPI's own"
    return [probe("start-compiled", title, "times", ratios, at_most=START_TIMES)]


def cpu_s(service: Running) -> float:
    # The children of a process, such as those that compile, have ended.
    return machine.cpu_s([service.process])


def restarts(bench: Bench) -> list[Probe]:
    """Requests without an answer while one instance is reloaded, and while two are restarted in turn."""
    return [
        drained("reload", "SIGHUP twice, one instance", bench, 1, reload_twice),
        drained("restart", "SIGTERM in turn, two instances", bench, 2, restart_in_turn),
    ]


def drained(
    name: str, title: str, bench: Bench, instances: int, event: Callable[[Bench, ExitStack, list[Running]], None]
) -> Probe:
    context = get_context("spawn")
    with ExitStack() as stack:
        services = [stack.enter_context(bench.service("gunicorn", 2)) for _ in range(instances)]
        stopped, results, begun = context.Event(), context.Queue(), context.Barrier(CLIENTS + 1)
        ports = [each.port for each in services]
        clients = [
            context.Process(target=client, args=(ports, number, begun, stopped, results)) for number in range(CLIENTS)
        ]
        for each in clients:
            each.start()
        # A busy machine starts them slowly, and without a request none can be lost.
        begun.wait(START_TIMEOUT_S)
        time.sleep(2)
        event(bench, stack, services)
        time.sleep(2)
        stopped.set()
        counts = [results.get(timeout=60) for _ in clients]
        for each in clients:
            each.join()
    answered, lost = (sum(count) for count in zip(*counts, strict=True))
    return probe(name, f"{title}: lost of {answered + lost:,}", "requests", [lost], at_most=0)


def reload_twice(_bench: Bench, _stack: ExitStack, services: list[Running]) -> None:
    for _ in range(2):
        old = {each.pid for each in services[0].process.children()}
        services[0].process.send_signal(signal.SIGHUP)
        while old & {each.pid for each in services[0].process.children()}:
            time.sleep(0.1)


def restart_in_turn(bench: Bench, stack: ExitStack, services: list[Running]) -> None:
    for each in services:
        each.process.terminate()
        each.process.wait(timeout=60)
        stack.enter_context(bench.service("gunicorn", 2, port=each.port))


def client(ports: list[int], number: int, begun: Barrier, stopped: Event, results: "Queue[tuple[int, int]]") -> None:
    """Send GET and POST in turn, over kept or over fresh connections; a refused client goes to the next port."""
    begun.wait(START_TIMEOUT_S)
    answered = lost = at = 0
    connection = HTTPConnection("127.0.0.1", ports[number % len(ports)], timeout=30)
    while not stopped.is_set():
        method = ("GET", "POST")[(answered + number) % 2]
        try:
            if connection.sock is None:
                connection.port = ports[(number + at) % len(ports)]
                connection.connect()
        except ConnectionRefusedError:
            at += 1
            time.sleep(0.01)
            continue
        try:
            connection.request(method, "/livez", headers={"Connection": "close"} if number % 2 else {})
            response = connection.getresponse()
            response.read()
            # /livez has no POST.
            answered, lost = answered + (response.status in (200, 405)), lost + (response.status not in (200, 405))
        except (HTTPException, OSError):
            lost += 1
            connection.close()
    results.put((answered, lost))


def probe(name: str, title: str, unit: str, values: Sequence[float], at_most: float | None = None) -> Probe:
    return Probe(name, title, unit, tuple(values), at_most, of="operation")


def row(each: Probe) -> str:
    """The line of a figure in the table of this command."""
    title = each.title + ("" if each.at_most is None else f" (goal: at most {each.at_most:g})")
    low, middle, high = (f"{value:.{0 if each.at_most == 0 else 2}f}" for value in ends(each.values))
    return f"| {title} | {each.unit} | {middle} ({low} to {high}) |"


def ends(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def main(rounds: int = ROUNDS) -> None:
    with cached_service() as (home, directory, variables):
        print("| figure | unit | median (lowest to highest) |\n| --- | --- | --- |", flush=True)
        for each in all_of(Bench(home, directory, variables, rounds), lambda _: None):
            print(row(each), flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
