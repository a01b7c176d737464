"""Measures the rendered service under 2x to 100x of the clients that saturate it, without and with its limiter.

`nox -s bench-overload`, four minutes, writes docs/performance/overload.md, or into the directory that is named. The
clients are a process of their own, in a closed loop over kept connections; a refused client waits as long as
`Retry-After` says and up to as long again, or, in the rows "at once", not at all.
"""

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypedDict, cast
from urllib.request import urlopen

import uvloop
from dev.processes import free_port

from benchmarks.harness import machine
from benchmarks.harness.http1 import Response
from benchmarks.harness.scenarios import Data, Scenario, aggregate, posts, stream, user, write
from benchmarks.harness.seeding import Size, look, seed
from benchmarks.harness.services import SERVICES, Running, cached_service, running
from tests.rendering import ROOT

DIRECTORY = ROOT / "docs" / "performance"
WORKERS = 2
SIZE = Size(users=10_000, posts=50_000)
PARTS = {user: 60, posts: 20, aggregate: 10, write: 10}
SATURATING = 20
PEAK = 2 * SATURATING
SECONDS = 8
LOADS = ((2, True), (10, True), (100, True), (100, False))
# Connections are opened, and the limiter finds its limit.
SETTLING_S = 2
BUCKET_S = 0.25
# A later answer is no goodput: nobody waits for it any more.
USEFUL_S = 1.0
VARIABLES = {"without": {"MAX_QUEUE_MS": "0", "MAX_IN_FLIGHT": "1000000"}, "with": {"MAX_QUEUE_MS": "50"}}


class Client(asyncio.Protocol):
    """One kept connection, with one request at a time."""

    transport: asyncio.Transport

    def __init__(self, load: "Load") -> None:
        self.load, self.response, self.sent_s = load, Response(), 0.0

        self.is_accepted = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # uvloop accepts one connection in each turn of its loop, so the accepting of many would be a part of the load.
        self.transport.write(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")

    def send(self) -> None:
        self.sent_s = time.perf_counter()
        self.transport.write(self.load.next())

    def data_received(self, data: bytes) -> None:
        if self.response.feed(data):
            if not self.is_accepted.is_set():
                self.is_accepted.set()
                return
            pause_s = self.load.answered(self.response.status, self.sent_s)
            if pause_s is None:
                self.send()
            else:
                self.load.loop.call_later(pause_s, self.send)

    def connection_lost(self, exc: Exception | None) -> None:
        self.load.lost += not self.load.is_over


class Load:
    def __init__(self, requests: list[str], *, waits: bool) -> None:
        self.loop = asyncio.get_running_loop()
        self.requests, self.at, self.waits = [each.encode("latin-1") for each in requests], 0, waits
        self.began_s = time.perf_counter()
        self.statuses: Counter[int] = Counter()
        self.good: Counter[int] = Counter()
        self.good_ms: list[float] = []
        self.refused_ms: list[float] = []
        self.lost, self.is_over = 0, False

    def next(self) -> bytes:
        self.at = (self.at + 1) % len(self.requests)
        return self.requests[self.at]

    def answered(self, status: int, sent_s: float) -> float | None:
        """Count an answer; return the pause before the next request."""
        now_s = time.perf_counter()
        if self.is_over:
            return 3600
        self.statuses[status] += 1
        if status == 200 and now_s - sent_s < USEFUL_S:
            self.good[int((now_s - self.began_s) / BUCKET_S)] += 1
        if sent_s - self.began_s > SETTLING_S:
            (self.good_ms if status == 200 else self.refused_ms).append((now_s - sent_s) * 1000)
        return None if status == 200 or not self.waits else 1 + random.random()  # noqa: S311 - no secret


async def load(job: dict[str, Any]) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    state = Load(job["requests"], waits=job["waits"])
    clients = []
    for _ in range(job["clients"]):
        _, client = await loop.create_connection(lambda: Client(state), "127.0.0.1", job["port"])
        clients.append(client)
        await client.is_accepted.wait()
    state.began_s = time.perf_counter()
    for each in clients:
        each.send()
    await asyncio.sleep(job["seconds"])
    state.is_over = True
    for each in clients:
        each.transport.abort()
    buckets = [state.good[number] / BUCKET_S for number in range(int(job["seconds"] / BUCKET_S))]
    names = {"good_ms": state.good_ms, "refused_ms": state.refused_ms}
    found: dict[str, Any] = {name: [quantile(values, each) for each in (0.5, 0.99)] for name, values in names.items()}
    return found | {"statuses": state.statuses, "buckets": buckets, "lost": state.lost}


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))] if values else 0.0


def asked(port: int, requests: list[str], clients: int, seconds: float, *, waits: bool = True) -> dict[str, Any]:
    """Run the clients in a process of their own."""
    job = {"port": port, "requests": requests, "clients": clients, "seconds": seconds, "waits": waits}
    command = [sys.executable, "-m", "benchmarks.overload", "client"]
    process = subprocess.run(command, input=json.dumps(job), capture_output=True, text=True, check=True)
    return cast(dict[str, Any], json.loads(process.stdout))


class Probes:
    """Asks for both probes ten times a second; `failed` are those without a 200."""

    def __init__(self, port: int, admin_port: int) -> None:
        self.addresses = (f"http://127.0.0.1:{port}/livez", f"http://127.0.0.1:{admin_port}/readyz")
        self.sent, self.failed, self.slowest_s, self.ends = 0, 0, 0.0, Event()
        self.thread = Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        while not self.ends.wait(0.1):
            for address in self.addresses:
                began_s, ok = time.perf_counter(), False
                with suppress(OSError), urlopen(address, timeout=10) as answer:  # noqa: S310 - http alone
                    ok = answer.status == 200
                self.sent, self.failed = self.sent + 1, self.failed + (not ok)
                self.slowest_s = max(self.slowest_s, time.perf_counter() - began_s)


def goodput(found: dict[str, Any]) -> float:
    buckets: list[float] = found["buckets"][int(SETTLING_S / BUCKET_S) :]
    return sum(buckets) / len(buckets)


def memory_mib(service: Running) -> float:
    return max(float(each.memory_full_info().pss) / 2**20 for each in service.process.children())


class Row(TypedDict):
    """One load, without or with the limiter; latencies in ms, `recovery_s` after the load."""

    times: int
    waits: bool
    limiter: str
    answers_per_s: float
    of_peak: float
    accepted_ms: list[float]
    refused_ms: list[float]
    recovery_s: float
    probes: int
    probes_failed: int
    slowest_probe_ms: float
    worker_mib: float
    statuses: dict[str, int]
    lost: int


class Document(TypedDict):
    """`alone_ms`: p50 and p99 of one client, without and with the limiter."""

    started_at: str
    machine: dict[str, Any]
    load_average: list[float]
    alone_ms: dict[str, list[float]]
    rows: list[Row]


def measure(name: str, service: Running, admin_port: int, requests: list[str], document: Document) -> None:
    """Add the rows of one limiter to the document, and print them."""
    asked(service.port, requests, SATURATING, SETTLING_S + 1)  # a warm-up
    document["alone_ms"][name] = asked(service.port, requests, 1, SETTLING_S + 3)["good_ms"]
    before = asked(service.port, requests, PEAK, SECONDS)
    for times, waits in LOADS:
        probes = Probes(service.port, admin_port)
        found = asked(service.port, requests, SATURATING * times, SECONDS, waits=waits)
        after = asked(service.port, requests, PEAK, SECONDS)
        probes.ends.set()
        probes.thread.join()
        # The mean of the rounds before and after it: the speed of the machine changes.
        peak = (goodput(before) + goodput(after)) / 2
        before = after
        recovered = next(number for number, rate in enumerate(after["buckets"]) if rate > 0.8 * goodput(after))
        row: Row = {
            "times": times,
            "waits": waits,
            "limiter": name,
            "answers_per_s": goodput(found),
            "of_peak": goodput(found) / peak,
            "accepted_ms": found["good_ms"],
            "refused_ms": found["refused_ms"],
            "recovery_s": recovered * BUCKET_S,
            "probes": probes.sent,
            "probes_failed": probes.failed,
            "slowest_probe_ms": probes.slowest_s * 1000,
            "worker_mib": memory_mib(service),
            "statuses": found["statuses"],
            "lost": found["lost"],
        }
        document["rows"].append(row)
        print(line(row), flush=True)


HEAD = (
    "| clients | limiter | answers/s (of the peak) | accepted, p50 / p99 ms | refused, p50 / p99 ms "
    "| recovery, s | probes without 200, slowest ms | MiB of a worker | answers |\n"
    "|" + " --- |" * 9
)


def line(row: Row) -> str:
    """The line of the table."""
    good, refused = row["accepted_ms"], row["refused_ms"]
    statuses = ", ".join(f"{count:,} {status}" for status, count in sorted(row["statuses"].items()))
    cells = [
        f"{row['times']}x{'' if row['waits'] else ', at once'}",
        row["limiter"],
        f"{row['answers_per_s']:,.0f} ({row['of_peak']:.0%})",
        f"{good[0]:.0f} / {good[1]:.0f}",
        f"{refused[0]:.0f} / {refused[1]:.0f}" if refused[1] else "-",
        f"{row['recovery_s']:g}",
        f"{row['probes_failed']} of {row['probes']}, {row['slowest_probe_ms']:.0f}",
        f"{row['worker_mib']:.0f}",
        statuses + (f", {row['lost']} lost" if row["lost"] else ""),
    ]
    return "| " + " | ".join(cells) + " |"


def page(document: Document) -> str:
    """docs/performance/overload.md, from its data."""
    where, (before, after) = document["machine"], document["load_average"]
    alone = ", ".join(f"{name} {each[0]:.1f} / {each[1]:.1f} ms" for name, each in document["alone_ms"].items())
    return (
        "# Overload\n\n"
        "`nox -s bench-overload` writes this page from [its data](overload.json); "
        "[Performance](README.md#overload) has the conditions and the reasons. "
        f"This run started {document['started_at']}, on {where['cores']} cores ({where['cpu']}) whose load average was "
        f"{before:.1f} before and {after:.1f} after it.\n\n{HEAD}\n"
        + "\n".join(map(line, document["rows"]))
        + f"\n\nOne client alone, p50 / p99: {alone}.\n"
    )


def publish(document: Document, directory: Path) -> None:
    (directory / "overload.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (directory / "overload.md").write_text(page(document), encoding="utf-8")


def main(directory: Path = DIRECTORY) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    document: Document = {
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine.describe(),
        "load_average": [os.getloadavg()[0]],
        "alone_ms": {},
        "rows": [],
    }
    with cached_service() as (home, service_directory, variables):
        database = variables["DATABASE_URL"]
        asyncio.run(seed(database, SIZE))
        rows = asyncio.run(look(database, depth=SIZE.posts // 2))
        chosen = stream(Scenario("reads and writes", PARTS), Data(rows.users, deep_page=""))
        requests = [each.encoded().decode("latin-1") for each in chosen]
        print(HEAD, flush=True)
        for name, more in VARIABLES.items():
            admin_port = free_port()
            started = running(
                SERVICES["rendered"],
                workers=WORKERS,
                cached=False,
                directory=service_directory,
                variables=variables | more | {"ADMIN_PORT": str(admin_port)},
                workspace=home,
            )
            with started as service:
                service.wait_until_ready()
                measure(name, service, admin_port, requests, document)
    document["load_average"].append(os.getloadavg()[0])
    publish(document, directory)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(load(json.load(sys.stdin)))))
    else:
        main(*map(Path, sys.argv[1:]))
