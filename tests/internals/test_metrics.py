"""Metrics are right with several workers, also after kills, and their number is bounded."""

import asyncio
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from fcntl import LOCK_SH
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from prometheus_client import REGISTRY, Histogram
from prometheus_client.parser import text_string_to_metric_families as parse

from app.core.concurrency.partial import failures
from app.core.database import database
from app.core.telemetry import metrics
from app.core.telemetry.metrics import Counts
from dev.processes import free_port
from tests.core.serving import serving

DURATION = "http_server_request_duration_seconds"
COUNTED = (f"{DURATION}_count", frozenset(("GET", "/livez", "200")))
WAIT_S = 20


class Scrape(dict[tuple[str, frozenset[str]], float]):
    """The samples of a scrape, by name and label values."""

    def __init__(self, text: str) -> None:
        self.families = list(parse(text))
        super().__init__(
            ((sample.name, frozenset(sample.labels.values())), sample.value)
            for family in self.families
            for sample in family.samples
        )

    def value(self, name: str, *labels: str) -> float:
        return self[name, frozenset(labels)]


@pytest.fixture(scope="module")
def admin_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def service(admin_port: int) -> Iterator[httpx2.Client]:
    with serving(ADMIN_PORT=str(admin_port)) as client:
        yield client


@pytest.fixture
def scrape(admin_port: int) -> Callable[[], Scrape]:
    """Scrape on a new connection, which any worker may answer."""

    def get() -> Scrape:
        return Scrape(httpx2.get(f"http://127.0.0.1:{admin_port}/metrics", timeout=WAIT_S).text)

    return get


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def workers() -> list[psutil.Process]:
    """The workers of the service, oldest first: children of the master."""
    children = psutil.Process().children()
    masters = [each for each in children if "gunicorn" in " ".join(each.cmdline())]
    return sorted(masters[-1].children(), key=psutil.Process.create_time)


def ask(service: httpx2.Client, count: int) -> None:
    for number in range(count):
        # A connection of its own may go to any worker.
        url = service.base_url.join(f"/nothing/{number}")
        assert httpx2.get(url, timeout=WAIT_S).status_code == 404


def test_the_counts_of_killed_and_replaced_workers_stay(
    service: httpx2.Client, scrape: Callable[[], Scrape]
) -> None:
    def counted() -> float:
        return scrape().value(f"{DURATION}_count", "GET", "unmatched", "404")

    ask(service, 40)
    # The other worker publishes its counts within `INTERVAL_S`.
    until(lambda: counted() == 40)
    first = workers()
    first[0].kill()
    until(lambda: first[0] not in workers() and len(workers()) == 2)
    ask(service, 40)
    # At once: a worker publishes its last counts when it ends.
    before = workers()
    before[0].parent().send_signal(signal.SIGHUP)
    until(lambda: not {*before} & {*workers()} and len(workers()) == 2)
    ask(service, 40)
    until(lambda: scrape().value("app_workers") == 2)
    until(lambda: counted() == 120)

    # The files of the workers that have ended are one of each type.
    master = workers()[0].parent()
    assert master
    # A service that was killed may have left one of the same pid.
    directories = Path("/dev/shm").glob(f"metrics-{master.pid}-*")  # noqa: S108
    directory = max(directories, key=lambda path: path.stat().st_mtime)
    names = [file.stem.rpartition("_")[2] for file in directory.glob("*.db")]
    assert set(names) == {"total", *(str(worker.pid) for worker in workers())}


def test_a_worker_whose_loop_is_blocked_is_seen(
    service: httpx2.Client, scrape: Callable[[], Scrape]
) -> None:
    until(lambda: scrape().value("app_workers") == 2)
    blocked = workers()[0]
    blocked.suspend()
    try:
        until(lambda: scrape().value("event_loop_lag_seconds") > 1)
        # The other worker answers.
        assert scrape().value("app_workers") == 2
    finally:
        blocked.resume()
    # It is shown for a minute.
    assert scrape().value("event_loop_lag_seconds") > 0.5


def test_a_scrape_has_every_metric_once_with_names_that_promtool_accepts(
    service: httpx2.Client, scrape: Callable[[], Scrape], admin_port: int
) -> None:
    families = scrape().families
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert {
        DURATION,
        "app_build_info",
        "app_memory_bytes",
        "app_workers",
        "db_pool_connections",
        "db_pool_waiting",
        "event_loop_lag_seconds",
        "http_server_open_streams",
        "http_server_active_requests",
        "http_server_queries_per_request",
        "jobs",
        "jobs_dead",
        "jobs_oldest_age_seconds",
        "jobs_waiting",
        "threads_in_use",
        "threads_max",
    } <= set(names)
    assert not any("pid" in sample.labels for family in families for sample in family.samples)
    if promtool := shutil.which("promtool"):
        text = httpx2.get(f"http://127.0.0.1:{admin_port}/metrics").content
        subprocess.run([promtool, "check", "metrics"], input=text, check=True, timeout=WAIT_S)


async def test_missing_parts_of_answers_are_counted(app: FastAPI) -> None:
    failures[("orders",)] += 2
    text = bytes((await metrics.exposition()).body).decode()
    assert Scrape(text).value("partial_failures_total", "orders") == 2


async def test_paths_methods_and_hosts_of_attackers_add_no_series(app: FastAPI) -> None:
    async def request(method: str, path: str, host: str) -> None:
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", host.encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b""}

        async def send(_: Any) -> None:
            pass

        await app(scope, receive, send)

    def series() -> int:
        return sum(len(family.samples) for family in REGISTRY.collect())

    async def published() -> int:
        metrics._measure()
        # In a thread: it reads files of /proc.
        return await asyncio.to_thread(series)

    for method in ("GET", "POST", "odd"):
        for path in ("/nothing", "/livez", "/readyz"):
            await request(method, path, "test")
            await request(method, path, "host:bad")
    before = await published()
    for number in range(10_000):
        word = secrets.token_hex(8)
        method = ("GET", "POST", word.upper())[number % 3]
        path = (f"/{word}", f"/livez/{word}", f"/readyz?{word}", f"/{word}/%00")[number % 4]
        await request(method, path, f"{word}.test")
    assert await published() == before


async def test_observations_arrive_as_if_they_were_made_one_by_one(app: FastAPI) -> None:
    # All sums are exact.
    bounds = (0.25, 1, 5)
    ours, theirs = (
        Histogram(name, "a", ["route", "status"], buckets=bounds, registry=None) for name in "ab"
    )
    observations = metrics.Observations(ours, bounds)
    for turn in range(3):
        for number, value in enumerate((0, 0.25, 0.375, 1, 1.5, 5, 6, 0.125)):
            labels = ("/orders", 200 + 300 * (number % 2))
            theirs.labels(*labels).observe(value + turn)
            observations.add(labels, value + turn)
        observations.publish()
        # A second time, there is nothing to publish.
        observations.publish()

    def samples(histogram: Histogram) -> list[tuple[str, dict[str, str], float]]:
        (family,) = histogram.collect()
        found = [(each.name[1:], each.labels, each.value) for each in family.samples]
        return [each for each in found if each[0] != "_created"]

    assert samples(ours) == samples(theirs)
    assert len(samples(ours)) == 12


async def test_a_scrape_has_the_requests_before_it(app: FastAPI) -> None:
    before = Scrape((await _exposed()).decode()).get(COUNTED, 0)
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        await client.get("/livez")
    assert Scrape((await _exposed()).decode())[COUNTED] == before + 1


async def test_connections_in_use_and_tasks_that_wait_are_shown(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The query of jobs finds no connection, and does not hold up the scrape.
    monkeypatch.setattr("app.core.jobs.metrics.TIMEOUT_S", 0.01)
    size = database.gate.size
    async with asyncio.TaskGroup() as group:
        for _ in range(size):
            await database.gate.acquire()
        waiting = group.create_task(database.gate.acquire())
        await asyncio.sleep(0)
        found = Scrape((await _exposed()).decode())
        assert found.value("db_pool_connections", "in_use") >= size
        # The worker or the relay of jobs may wait as well.
        assert found.value("db_pool_waiting") >= 1
        for _ in range(size):
            database.gate.release()
        await waiting
    database.gate.release()
    found = Scrape((await _exposed()).decode())
    assert found.value("db_pool_waiting") == 0


async def test_a_worker_that_starts_has_no_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "monotonic", lambda: 28_355.0)
    metrics.BEAT.set(0)
    families = {family.name: family for family in await asyncio.to_thread(metrics._families)}

    # Other tests may have held their event loops.
    assert families["event_loop_lag_seconds"].samples[0].value < 1_000


async def _exposed() -> bytes:
    return bytes((await metrics.exposition()).body)


def test_counts_of_the_dead_are_moved_when_no_scrape_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.DIRECTORY, str(tmp_path))

    def write(name: str, value: float) -> None:
        file = Counts(str(tmp_path / name))
        file.write_value("key", value, 0.0)
        file.close()

    def files() -> dict[str, float]:
        read = Counts.read_all_values_from_file
        found = {file.name: file for file in tmp_path.glob("*.db") if file.stat().st_size}
        return {name: next(read(file))[1] for name, file in found.items()}

    (tmp_path / "counter_3.db").touch()
    write("counter_1.db", 3)
    write("counter_2.db", 4)
    write("counter_7.db", 5)
    write("gauge_livesum_1.db", 6)
    write("gauge_livesum_7.db", 7)
    before = files()
    with metrics._locked(LOCK_SH):
        metrics.compact({7})
    # No later worker may end for a long time, and the gauges of this one would stay.
    del before["gauge_livesum_1.db"]
    assert files() == before

    metrics.compact({7})
    assert files() == {"counter_total.db": 7, "counter_7.db": 5, "gauge_livesum_7.db": 7}
    metrics.compact(())
    assert files() == {"counter_total.db": 12}
