"""Measures jobs by engine beside PgQueuer and Procrastinate, the pools and the HTTP client, in one table.

`nox -s bench-jobs`, five minutes. All sides of a comparison take turns.
"""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import psutil
from dev.guardian import stop
from dev.postgres import postgres
from dev.processes import free_port, workspace
from dev.valkey import valkey

from benchmarks.harness.services import CURSOR_SECRET, lay_over, migrate
from benchmarks.queues import CONCURRENCY, FILL, REMAINING
from tests.rendering import ROOT, render, snapshot
from tests.variants import DEFAULTS

ENGINES = ("postgres", "background_tasks", "celery", "rq")
LIBRARIES = ("PgQueuer", "Procrastinate")
ROUNDS = 3
JOBS = 3000
# Of Procrastinate, which is slower by more than that.
FEWER = 5
# Of one step; a loaded machine starts a worker in half a minute.
TIMEOUT_S = 120.0
OURS = (
    "INSERT INTO background_job (id, name, version, arguments, request_id) "
    "SELECT gen_random_uuid(), 'app.work.jobs.nothing', 1, '{\"number\": 7}', '' FROM generate_series(1, $1)"
)
WAITING = "SELECT count(*) FROM background_job WHERE state = 'waiting'"
Row = tuple[str, str, str]


@dataclass
class Side:
    """An engine or a library, in a database of its own."""

    name: str
    directory: Path
    variables: dict[str, str]
    fill: str
    remaining: str
    worker: Sequence[str]
    enqueue: Sequence[str]
    # The process with the relay, if the worker does not do it all.
    web: Sequence[str] = ()
    jobs: int = JOBS

    @property
    def database(self) -> str:
        return self.variables["DATABASE_URL"]

    def run(self, *command: str) -> dict[str, Any]:
        """Run a program that prints JSON."""
        process = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env=os.environ | self.variables,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=TIMEOUT_S,
        )
        found: dict[str, Any] = json.loads(process.stdout)
        return found

    @contextmanager
    def started(self, command: Sequence[str]) -> Iterator[psutil.Popen]:
        process = psutil.Popen(
            [sys.executable, "-m", *command],
            cwd=self.directory,
            env=os.environ | self.variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            tree = [process, *process.children(recursive=True)]
            process.terminate()
            psutil.wait_procs([process], timeout=5)
            for each in tree:
                stop(each)


async def rate(side: Side, worker: psutil.Popen) -> tuple[float, float]:
    """Return the jobs per second of a worker that is warm, and its CPU time for one in us."""
    connection = await asyncpg.connect(side.database)
    try:
        # The first job shows that the worker is ready.
        await connection.execute(side.fill, 1)
        await reached(connection, side, 0)
        jobs = side.jobs
        while True:
            await connection.execute(side.fill, jobs)
            first = await reached(connection, side, jobs * 9 // 10), time.perf_counter(), cpu_s(worker)
            last = await reached(connection, side, jobs // 10), time.perf_counter(), cpu_s(worker)
            await reached(connection, side, 0)
            if done := first[0] - last[0]:
                return done / (last[1] - first[1]), (last[2] - first[2]) / done * 1e6
            # All jobs were done between two looks.
            jobs *= 2
    finally:
        await connection.close()


async def reached(connection: asyncpg.Connection, side: Side, remaining: int) -> int:
    """Wait until no more jobs than that remain; return their number."""
    async with asyncio.timeout(TIMEOUT_S):
        while (count := await connection.fetchval(side.remaining)) > remaining:
            await asyncio.sleep(0.02)
    return int(count)


def cpu_s(process: psutil.Popen) -> float:
    """CPU time of a process and its children, those that have ended included."""
    times = [each.cpu_times() for each in (process, *process.children(recursive=True))]
    own = sum(each.user + each.system for each in times)
    return float(own + sum(each.children_user + each.children_system for each in times))


def rates(sides: Sequence[Side]) -> list[Row]:
    found: dict[str, list[tuple[float, float]]] = {side.name: [] for side in sides}
    for number in range(ROUNDS):
        for side in sides[:: -1 if number % 2 else 1]:
            if side.worker:
                with side.started(side.worker) as worker, side.started(side.web) if side.web else nullcontext():
                    found[side.name].append(asyncio.run(rate(side, worker)))
            else:
                one = side.run("app.work.probe", "run", str(side.jobs))
                found[side.name].append((one["rate"], one["cpu_us"]))
    columns = (("one worker", "jobs/s"), ("CPU of the worker", "us a job"))
    return [
        row(f"{name}: {title}", unit, [each[column] for each in found[name]], 0)
        for column, (title, unit) in enumerate(columns)
        for name in found
    ]


def enqueues(sides: Sequence[Side]) -> list[Row]:
    """CPU that a job adds to a transaction of the client, and the longest pause of the event loop of our service."""
    found = {side.name: side.run(*side.enqueue) for side in sides}
    rows = [row(f"{name}: enqueue in a transaction", "us of CPU", found[name]["enqueue_us"], 0) for name in found]
    with_pauses = [name for name in found if "pause_ms" in found[name]]
    return rows + [row(f"{name}: longest pause of the loop", "ms", found[name]["pause_ms"]) for name in with_pauses]


def pools(sides: Sequence[Side]) -> list[Row]:
    """The cost of a call in a thread and in a process, and the pauses of the loop that they avoid."""
    found = sides[0].run("app.work.probe", "pools")
    places = ("thread", "process")
    return [
        *(row(f"a call in a {place}", "us of CPU", found[f"{place}_us"], 0) for place in places),
        *(row(f"a call in a {place}, until its result", "ms", found[f"{place}_ms"], 2) for place in places),
        *(
            row(f"longest pause of the loop: 50 ms computed {title}", "ms", found[f"pause_{place}_ms"])
            for place, title in (("inline", "on it"), ("thread", "in a thread"), ("process", "in a process"))
        ),
    ]


def client(sides: Sequence[Side]) -> list[Row]:
    """CPU of a call to another service, by client."""
    with other_service() as url:
        found = sides[0].run("app.work.probe", "client", url)
    titles = {"ours_us": "`http`, with limits and retries", "aiohttp_us": "aiohttp", "httpx_us": "httpx"}
    return [row(f"a call to another service: {titles[name]}", "us of CPU", found[name], 0) for name in titles]


@contextmanager
def other_service() -> Iterator[str]:
    """Serve a small JSON document from a process of its own; yields its URL."""
    port = free_port()
    process = get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    process.start()
    try:
        while not connects(port):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.join()


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


def serve(port: int) -> None:
    body = b'{"city": "Berlin", "celsius": 7.5}'
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(head + body)
        writer.close()

    async def run() -> None:
        await (await asyncio.start_server(answer, "127.0.0.1", port)).serve_forever()

    asyncio.run(run())


def row(name: str, unit: str, values: Sequence[float], digits: int = 1) -> Row:
    return name, unit, f"{median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


async def create(database: str, name: str) -> str:
    """Create a database on the same server; return its URL."""
    connection = await asyncpg.connect(database)
    await connection.execute(f'CREATE DATABASE "of-{name}"')
    await connection.close()
    return f"{database.rpartition('/')[0]}/of-{name}"


def prepare(home: Path, database: str, broker: str) -> list[Side]:
    """Render a service for each engine, and install the libraries."""
    template = snapshot(home / "template")
    sides = []
    for engine in ENGINES:
        answers = DEFAULTS | {"background_jobs": engine, "cache_backend": "none", "example": False}
        directory = render(template, home / engine, answers)
        lay_over(directory, ["work"])
        variables = {
            "DATABASE_URL": asyncio.run(create(database, engine)),
            "BROKER_URL": broker,
            "CURSOR_SECRET": CURSOR_SECRET,
            "JOB_CONCURRENCY": str(CONCURRENCY),
            "JOB_PROCESSES": "1",
            "JOB_BACKLOG": "100000",
            "JOB_QUEUE": engine,
            "LOG_LEVEL": "ERROR",
        }
        migrate(directory, variables)
        worker = () if engine == "background_tasks" else ("app", "worker")
        web = ("app.work.probe", "open") if engine in ("celery", "rq") else ()
        sides.append(Side(engine, directory, variables, OURS, WAITING, worker, ("app.work.probe", "enqueue"), web))
    for library in LIBRARIES:
        url = asyncio.run(create(database, library))
        command = ("benchmarks.queues", library)
        side = Side(
            library,
            ROOT,
            {"DATABASE_URL": url},
            FILL[library],
            REMAINING[library],
            (*command, "work", url),
            (*command, "enqueue", url),
        )
        side.jobs = JOBS if library == "PgQueuer" else JOBS // FEWER
        subprocess.run([sys.executable, "-m", *command, "install", url], cwd=ROOT, check=True)
        sides.append(side)
    return sides


def main() -> None:
    with (
        workspace() as home,
        postgres(home) as database,
        valkey(home, variable="BROKER_URL", maxmemory_policy="noeviction") as broker,
    ):
        sides = prepare(home, database, broker)
        print("| figure | unit | median (lowest to highest) |\n| --- | --- | --- |", flush=True)
        for measure in (pools, client, enqueues, rates):
            for cells in measure(sides):
                print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
