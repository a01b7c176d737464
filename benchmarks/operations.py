"""Measures the operation of the rendered service: telemetry, start-up, memory and restarts, in one table.

`nox -s bench-operations`, five minutes. Both sides of a comparison take turns, and the client is a process of its own.
"""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection, HTTPException
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path
from statistics import median

from benchmarks.harness.services import CURSOR_SECRET, SERVICES, Running, cached_service, running

ROUNDS = 3
CLIENTS = 8
RENDERED = SERVICES["rendered"]
Row = tuple[str, str, str]


def uvicorn(_workers: int, port: int) -> list[str]:
    options = ["--loop", "uvloop", "--http", "httptools", "--no-access-log"]
    return [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), *options]


WITHOUT_GUNICORN = dataclasses.replace(RENDERED, name="uvicorn", command=uvicorn)


class Bench:
    """The directory of the rendered service, and the variables of its servers."""

    def __init__(self, home: Path, directory: Path, variables: Mapping[str, str]) -> None:
        self.home, self.directory, self.variables = home, directory, variables

    @contextmanager
    def service(self, kind: str, workers: int, *, port: int | None = None) -> Iterator[Running]:
        service = {"gunicorn": RENDERED, "uvicorn": WITHOUT_GUNICORN}[kind]
        started = running(
            service,
            workers=workers,
            cached=True,
            directory=self.directory,
            variables=self.variables,
            workspace=self.home,
            port=port,
        )
        with started as one:
            one.wait_until_ready()
            yield one


def telemetry(bench: Bench) -> list[Row]:
    """CPU that the edge adds to a request, in process: see rendered/app/caches/probe.py."""
    process = subprocess.run(
        [sys.executable, "-m", "app.caches.probe"],
        cwd=bench.directory,
        env={**os.environ, **bench.variables, "CURSOR_SECRET": CURSOR_SECRET},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(process.stdout)
    return [
        row("telemetry and metrics, of a request", "us of CPU", found["telemetry_us"]),
        row("the whole edge, of a request", "us of CPU", found["edge_us"]),
    ]


def starts(bench: Bench) -> list[Row]:
    """CPU and memory from the start to the first response, without and with gunicorn, and with two workers."""
    kinds = (("uvicorn", 1), ("gunicorn", 1), ("gunicorn", 2))
    cpu: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    memory: dict[tuple[str, int], list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind in kinds:
            with bench.service(*kind) as service:
                tree = [service.process, *service.process.children(recursive=True)]
                # The children of a process, such as those that compile, have ended.
                times = [each.cpu_times() for each in tree]
                cpu[kind].append(sum(each.user + each.system + each.children_user for each in times))
                memory[kind].append(sum(each.memory_full_info().pss for each in tree) / 2**20)
    return [
        row(f"{server} with {workers} worker{'s'[: workers - 1]}, {name}", unit, found[server, workers])
        for name, unit, found in (("start", "s of CPU", cpu), ("memory (PSS)", "MiB", memory))
        for server, workers in kinds
    ]


def restarts(bench: Bench) -> list[Row]:
    """Requests without an answer while one instance is reloaded, and while two are restarted in turn."""
    return [
        drained("SIGHUP twice, one instance", bench, 1, reload_twice),
        drained("SIGTERM in turn, two instances", bench, 2, restart_in_turn),
    ]


def drained(name: str, bench: Bench, instances: int, event: Callable[[Bench, ExitStack, list[Running]], None]) -> Row:
    context = get_context("spawn")
    with ExitStack() as stack:
        services = [stack.enter_context(bench.service("gunicorn", 2)) for _ in range(instances)]
        stopped, results = context.Event(), context.Queue()
        ports = [each.port for each in services]
        clients = [context.Process(target=client, args=(ports, number, stopped, results)) for number in range(CLIENTS)]
        for each in clients:
            each.start()
        time.sleep(2)
        event(bench, stack, services)
        time.sleep(2)
        stopped.set()
        counts = [results.get(timeout=60) for _ in clients]
        for each in clients:
            each.join()
    answered, lost = (sum(count) for count in zip(*counts, strict=True))
    return f"{name}: lost of {answered + lost:,}", "requests", str(lost)


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


def client(ports: list[int], number: int, stopped: Event, results: "Queue[tuple[int, int]]") -> None:
    """Send GET and POST in turn, over kept or over fresh connections; a refused client goes to the next port."""
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


def row(name: str, unit: str, values: list[float]) -> Row:
    return name, unit, f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    with cached_service(DRAIN_DELAY_S="1") as (home, directory, variables):
        bench = Bench(home, directory, variables)
        print("| figure | unit | median (lowest to highest) |\n| --- | --- | --- |", flush=True)
        for measure in (telemetry, starts, restarts):
            for cells in measure(bench):
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
