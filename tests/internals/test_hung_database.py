"""A database that hangs: which requests wait for it, and when they are refused at once."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import httpx2
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import func, select, text

from app.core.database import Database, ReadSession, breaker
from app.core.http.problems import Unavailable
from app.settings import get_settings
from dev.processes import free_port, workspace
from tests.internals.asking import HAS_CACHE
from tests.internals.postgres_server import Server, postgres_server
from tests.internals.running import Service, eventually
from tests.internals.tables import Book, tables

POOL_SIZE = 4
CLIENTS = 8
OPENED = "The database does not answer: statements are refused"
CLOSED = "The database answers again"
TIMED_OUT = "The database did not answer in time."


class Hung(Service):
    """The service on a PostgreSQL of its own, which hangs."""

    database: Server


@pytest.fixture(scope="module")
def service() -> Iterator[Hung]:
    with workspace() as home, postgres_server() as database:
        own = {"DATABASE_POOL_SIZE": f"{POOL_SIZE}", "LOG_LEVEL": "INFO", "TMPDIR": str(home)}
        running = Hung(home, database.url, **own)
        running.database = database
        with running.client, running.running:
            running.start_web("asking")
            yield running


class Load:
    """Clients that read without a pause; `statuses` counts the answers since it was cleared."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.statuses: Counter[str] = Counter()
        self.ends = Event()

    def client(self) -> None:
        with httpx2.Client(base_url=self.url, timeout=60) as client:
            while not self.ends.is_set():
                response = client.get("/read")
                retry = response.headers.get("Retry-After", "")
                self.statuses[f"{response.status_code} {retry}".strip()] += 1
                # Refusals are fast.
                time.sleep(0.01)

    def answers(self, number: int) -> Counter[str]:
        """Return the next answers, at least so many."""
        answers: Counter[str] = Counter()
        self.statuses = answers
        eventually(lambda: answers.total() >= number)
        return answers


@contextmanager
def load(service: Hung) -> Iterator[Load]:
    state = Load(str(service.client.base_url))
    with ThreadPoolExecutor(CLIENTS) as clients:
        running = [clients.submit(state.client) for _ in range(CLIENTS)]
        try:
            yield state
        finally:
            state.ends.set()
        for each in running:
            each.result()


@pytest.mark.timeout(180)
def test_a_hung_database_holds_few_requests_and_recovers(service: Hung) -> None:
    assert service.client.get("/stale").status_code == 200
    with load(service) as requests:
        assert requests.answers(100).keys() == {"200"}
        whole = requests.statuses = Counter()

        service.database.suspend()
        try:
            eventually(lambda: OPENED in service.web.log, service.logs)
            # The first ones wait for the time-out. The others are refused without a connection.
            eventually(lambda: TIMED_OUT in service.web.log, service.logs)
            assert requests.answers(500).keys() == {"503 1"}
            ready = service.client.get("/readyz")
            stale = service.client.get("/stale")
        finally:
            service.database.resume()
        eventually(lambda: CLOSED in service.web.log, service.logs)
        eventually(lambda: requests.answers(50).keys() == {"200"}, service.logs)
        assert requests.answers(500).keys() == {"200"}

    assert whole.keys() <= {"200", "503 1"}
    # Those that held a connection when it began, or took one that was given back.
    assert service.web.log.count(TIMED_OUT) <= 2 * POOL_SIZE
    assert service.web.log.count(OPENED) == service.web.log.count(CLOSED) == 1
    assert ready.status_code == 503
    assert stale.status_code == (200 if HAS_CACHE else 503)
    assert "Traceback" not in service.web.log


@pytest.fixture
async def double(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Database, list[bool]]]:
    """A pool of two connections that is watched closely, and what its probes say."""
    probes: list[bool] = []
    hangs = breaker._hangs

    async def noted(probe: Database) -> bool:
        probes.append(await hangs(probe))
        return probes[-1]

    monkeypatch.setattr(breaker, "INTERVAL_S", 0.01)
    monkeypatch.setattr(breaker, "_hangs", noted)
    pool = Database()
    pool.open(get_settings(), pool_size=2)
    async with tables(), breaker.watching(pool, get_settings()):
        yield pool, probes
    await pool.close()


async def test_slow_statements_and_locks_are_no_hang(double: tuple[Database, list[bool]]) -> None:
    pool, probes = double
    session = ReadSession(pool)
    await asyncio.gather(*(session.rows(select(func.pg_sleep(0.5))) for _ in range(2)))
    assert probes

    probes.clear()
    owner = Database()
    owner.open(get_settings(), pool_size=1)
    async with owner.engine.begin() as other:
        await other.execute(text("LOCK TABLE test_books"))
        waiting = [asyncio.create_task(session.scalars(select(Book))) for _ in range(2)]
        async with asyncio.timeout(30):
            while len(probes) < 3:
                await asyncio.sleep(0.01)
    assert await asyncio.gather(*waiting) == [[], []]
    await owner.close()
    assert not any(probes)


async def test_an_idle_pool_is_not_probed(double: tuple[Database, list[bool]]) -> None:
    _, probes = double
    await asyncio.sleep(0.1)
    assert probes == []


@pytest.mark.parametrize(("hangs", "opens"), [([True], False), ([True, True], True)])
async def test_one_failure_of_a_probe_is_no_hang(
    hangs: list[bool], opens: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, refused = Database(), []
    pool.open(get_settings(), pool_size=1)
    left = [*hangs, False]

    async def pretended(_: Database) -> bool:
        refused.append(bool(pool.gate.refusal))
        return left.pop(0)

    monkeypatch.setattr(breaker, "INTERVAL_S", 0)
    monkeypatch.setattr(breaker, "_hangs", pretended)
    await breaker._probe_until_it_answers(pool, get_settings())

    assert refused[-1] == opens
    assert left == []
    assert not pool.gate.refusal
    await pool.close()


async def test_a_blocked_event_loop_is_no_hang() -> None:
    """The probe waits for this process then, and not for the database."""
    pool = Database()
    pool.open(get_settings(), pool_size=1)
    await pool.fetch(breaker._PROBE, {})
    loop = asyncio.get_running_loop()

    def block() -> None:
        ends_s = time.monotonic() + 1.5 * breaker.PROBE_TIMEOUT_S
        while time.monotonic() < ends_s:
            pass

    # When the statement is sent.
    loop.call_soon(loop.call_soon, block)
    assert not await breaker._hangs(pool)
    await pool.close()


async def test_refused_statements_take_no_slot() -> None:
    pool = Database()
    pool.open(get_settings(), pool_size=1)
    pool.gate.refusal = "The database does not answer."
    with pytest.raises(Unavailable, match="does not answer"):
        await ReadSession(pool).scalar(select(func.now()))
    assert pool.gate.in_use == 0
    await pool.close()


async def test_a_server_that_refuses_connections_does_not_hang() -> None:
    there = f"postgresql://postgres:secret@127.0.0.1:{free_port()}/postgres"
    pool = Database()
    settings = get_settings().model_copy(update={"database_url": SecretStr(there)})
    pool.open(settings, pool_size=1)
    assert not await breaker._hangs(pool)
    await pool.close()
