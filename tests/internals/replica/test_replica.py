"""A primary and its replica, both real: who answers, and what happens when one of them does not."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from time import monotonic
from typing import Annotated, Any, TypeVar

import httpx2
import orjson
import pytest
from fastapi import APIRouter, Depends, FastAPI
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import Label, Select, bindparam, delete, func, insert, select, text, update

from app.core.application import create_app
from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    WriteSession,
)
from app.core.database.replica import fresh, monitor, replica
from app.core.http.problems import Busy, Unavailable
from app.core.operations import health
from app.core.settings import ConfigurationError, CoreSettings, load
from app.settings import get_settings
from dev.processes import free_port
from tests.core.serving import serving
from tests.internals.postgres_server import Server, between
from tests.internals.replica.servers import primary_and_replica
from tests.internals.tables import Base, Book

T = TypeVar("T")

POOL_SIZE = 4
# More than a test takes, and little.
MAX_LAG_S, STRICT_LAG_S = 60, 0.5
PATIENCE_S = 30

OK = {"replica": "ok"}
ON_REPLICA = select(func.pg_is_in_recovery().label("on_replica"))
PREPARED = PreparedRead(ON_REPLICA)
ADD = PreparedWrite(
    insert(Book)
    .values(title=bindparam("title"))
    .returning(func.pg_is_in_recovery().label("on_replica"))
)


async def request(work: Awaitable[T]) -> T:
    """Run it as a request of its own."""

    async def run() -> T:
        return await work

    return await asyncio.create_task(run(), context=Context())


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.02)


async def says(expected: str) -> None:
    """Wait until the monitor says so."""

    async def does() -> bool:
        return expected in replica.checks()["replica"]

    await until(does)


async def is_left_out() -> None:
    """Wait for it, whatever the reason: a server that stops refuses in several ways."""

    async def does() -> bool:
        return replica.checks() != OK

    await until(does)


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[Server, Server]]:
    with primary_and_replica() as servers:
        yield servers


@pytest.fixture(scope="module")
def settings(servers: tuple[Server, Server]) -> CoreSettings:
    urls = [SecretStr(server.url) for server in servers]
    return get_settings().model_copy(
        update={
            "database_url": urls[0],
            "database_replica_url": urls[1],
            "database_replica_max_lag_s": MAX_LAG_S,
            # No test waits for this.
            "database_statement_timeout_s": 2.0 * PATIENCE_S,
        }
    )


@pytest.fixture(scope="module")
async def primary(settings: CoreSettings) -> AsyncIterator[Database]:
    database = Database()
    database.open(settings, pool_size=POOL_SIZE)
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield database
    await database.close()


@pytest.fixture
async def standby(
    settings: CoreSettings, servers: tuple[Server, Server], primary: Database
) -> AsyncIterator[Server]:
    """The replica's server, in use and caught up; the table is empty."""
    async with in_use(settings, primary):
        yield servers[1]


@pytest.fixture
async def strict(
    settings: CoreSettings, servers: tuple[Server, Server], primary: Database
) -> AsyncIterator[Server]:
    """The same, with a limit of `STRICT_LAG_S`."""
    limit = {"database_replica_max_lag_s": STRICT_LAG_S}
    async with in_use(settings.model_copy(update=limit), primary):
        yield servers[1]


@asynccontextmanager
async def in_use(settings: CoreSettings, primary: Database) -> AsyncIterator[None]:
    async def empty() -> None:
        async with WriteSession(primary) as session:
            await session.execute(delete(Book))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(monitor, "INTERVAL_S", 0.05)
        async with replica.opened(settings, primary, pool_size=POOL_SIZE):
            await says("ok")
            await request(empty())
            await until(lambda: request(is_visible(primary, 0)))
            yield


async def is_visible(primary: Database, number: int) -> bool:
    """Whether the replica has so many rows."""
    on_replica, count = await look(primary)
    return on_replica and count == number


async def look(primary: Database) -> tuple[bool, int]:
    """Whether the replica answers, and the number of rows."""
    statement = select(func.pg_is_in_recovery(), func.count(Book.id))
    ((on_replica, count),) = await ReadSession(primary).rows(statement)
    return on_replica, count


def sleep(seconds: float) -> Label[None]:
    return func.pg_sleep(seconds).label("slept")


async def answered_by(
    primary: Database, statement: Select[*tuple[Any, ...]], prepared: bool
) -> str:
    """Who runs a statement of one row, whose first column says whether it was the replica."""
    session = ReadSession(primary)
    if prepared:
        (row,) = await session.fetch(PreparedRead(statement))
        on_replica = row["on_replica"]
    else:
        on_replica = (await session.rows(statement))[0][0]
    return "replica" if on_replica else "primary"


async def write(primary: Database) -> None:
    async with WriteSession(primary) as session:
        session.add(Book(title="x"))


@asynccontextmanager
async def delayed(standby: Server) -> AsyncIterator[None]:
    """The replica receives what is committed meanwhile, and shows it later."""
    await set_delay(standby, "'1h'")
    try:
        yield
    finally:
        await set_delay(standby, "DEFAULT")


async def set_delay(standby: Server, value: str) -> None:
    def is_delayed(shown: object) -> bool:
        return (shown == "0") == (value == "DEFAULT")

    async with administration(standby) as execute:
        await execute(f"ALTER SYSTEM SET recovery_min_apply_delay = {value}")
        await execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(PATIENCE_S):
            while not is_delayed(await execute("SHOW recovery_min_apply_delay")):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def administration(server: Server) -> AsyncIterator[Callable[[str], Awaitable[object]]]:
    """Runs statements on one of the servers, each with at most one value as its result."""
    database = Database()
    settings = {"database_url": SecretStr(server.url)}
    database.open(get_settings().model_copy(update=settings), pool_size=1)

    async def execute(statement: str) -> object:
        async with database.autocommit_engine.connect() as connection:
            result = await connection.execute(text(statement))
            return result.scalar() if result.returns_rows else None

    try:
        yield execute
    finally:
        await database.close()


@asynccontextmanager
async def readers(primary: Database) -> AsyncIterator[list[bool | Exception]]:
    """Two clients that read all the time: who answered, or the error."""
    answers: list[bool | Exception] = []
    enough = asyncio.Event()

    async def read(session: ReadSession) -> None:
        try:
            answers.append(bool(await session.scalar(ON_REPLICA)))
        except Exception as error:
            answers.append(error)

    async def client() -> None:
        while not enough.is_set():
            await request(read(ReadSession(primary)))
            await asyncio.sleep(0.005)

    clients = [asyncio.create_task(client()) for _ in range(2)]
    try:
        yield answers
    finally:
        enough.set()
        await asyncio.wait(clients)


# --- Who answers ---


async def test_every_read_goes_to_the_replica(standby: Server, primary: Database) -> None:
    session = ReadSession(primary)

    assert await request(session.scalar(ON_REPLICA)) is True
    assert await request(session.scalars(ON_REPLICA)) == [True]
    assert [tuple(row) for row in await request(session.rows(ON_REPLICA))] == [(True,)]
    assert await request(session.fetch(PREPARED)) == [{"on_replica": True}]
    assert await request(session.fetch_one(PREPARED)) == {"on_replica": True}


async def test_every_write_and_what_it_reads_goes_to_the_primary(
    standby: Server, primary: Database
) -> None:
    async def transaction() -> list[object]:
        async with WriteSession(primary) as session:
            session.add(Book(title="added"))
            await session.flush()
            await session.execute(insert(Book).values(title="executed"))
            returned = await session.returning(
                update(Book).where(Book.title == "added").values(title="x").returning(Book.title)
            )
            written = await session.write(ADD, title="written")
            return [
                returned,
                written,
                await session.scalar(ON_REPLICA),
                await session.fetch_one(PREPARED),
            ]

    async def alone() -> object:
        async with WriteSession(primary) as session:
            return await session.autocommit(ADD, title="alone")

    here = {"on_replica": False}
    assert await request(transaction()) == ["x", [here], False, here]
    assert await request(alone()) == [here]
    await until(lambda: request(is_visible(primary, 4)))


async def test_a_type_checker_keeps_writes_from_the_replica(
    standby: Server, primary: Database
) -> None:
    # That each comment is needed is what the type checker proves here.
    with pytest.raises(AttributeError):
        async with WriteSession(replica):  # type: ignore[arg-type]
            pass
    # And the server, what it would cost to lie to it.
    with pytest.raises(Unavailable) as caught:
        await request(ReadSession(primary).fetch(ADD, title="x"))  # type: ignore[arg-type]
    assert "read-only transaction" in str(caught.value.__cause__)


async def test_other_databases_are_read_where_they_are(
    standby: Server, settings: CoreSettings
) -> None:
    other = Database()
    other.open(settings, pool_size=1)

    assert await request(ReadSession(other).scalar(ON_REPLICA)) is False

    await other.close()


async def test_without_a_replica_the_primary_answers(
    settings: CoreSettings, primary: Database
) -> None:
    alone = settings.model_copy(update={"database_replica_url": None})
    async with replica.opened(alone, primary, pool_size=POOL_SIZE):
        assert replica.checks() == {}
        assert await request(ReadSession(primary).scalar(ON_REPLICA)) is False


async def test_who_holds_a_connection_takes_no_second_one_there_either(
    standby: Server, primary: Database
) -> None:
    async def read_beside() -> None:
        async with WriteSession(primary) as session:
            await session.scalar(ON_REPLICA)
            await ReadSession(primary).scalar(ON_REPLICA)

    with pytest.raises(RuntimeError, match="read through that session"):
        await request(read_beside())


async def test_a_worker_takes_no_more_connections_than_its_pool_has(
    standby: Server, primary: Database
) -> None:
    busy = select(func.pg_sleep(0.3))
    clients = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    async with administration(standby) as execute:
        reads = asyncio.gather(
            *(request(ReadSession(primary).rows(busy)) for _ in range(2 * POOL_SIZE)),
            return_exceptions=True,
        )
        await asyncio.sleep(0.2)
        during = await execute(clients)
        outcomes = await reads

    # One is the test's own, and one the monitor's.
    assert during == 1 + POOL_SIZE
    # Load is no outage: it stays here.
    assert {type(outcome) for outcome in outcomes} <= {list, Busy}
    assert replica.checks() == OK


async def test_what_is_kept_for_others_is_read_from_the_primary(
    standby: Server, primary: Database
) -> None:
    async def load() -> bool | None:
        return await ReadSession(primary).scalar(ON_REPLICA)

    async def load_for_others() -> bool | None:
        fresh()
        return await load()

    assert await request(load_for_others()) is False
    assert await request(load()) is True


# --- Who has written reads it ---


@pytest.fixture
def books(primary: Database) -> FastAPI:
    async def writing() -> AsyncIterator[WriteSession]:
        async with WriteSession(primary) as session:
            yield session

    router = APIRouter()

    @router.post("/books")
    async def add(session: Annotated[WriteSession, Depends(writing, scope="function")]) -> None:
        session.add(Book(title="x"))

    @router.get("/books")
    async def count() -> tuple[bool, int]:
        return await look(primary)

    @router.post("/books/seen")
    async def add_and_look(alone: bool) -> tuple[bool, int]:
        async with WriteSession(primary) as session:
            if alone:
                await session.autocommit(ADD, title="x")
            else:
                await session.write(ADD, title="x")
        return await look(primary)

    @router.post("/books/conflict")
    async def add_and_fail() -> None:
        async with WriteSession(primary) as session:
            await session.autocommit(ADD, title="x")
            raise Unavailable("after all")

    return create_app(get_settings(), router, title="books", description="for tests")


@pytest.fixture
async def client(app: FastAPI, standby: Server, books: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(books, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("alone", [True, False])
async def test_a_request_reads_what_it_wrote(
    client: AsyncClient, standby: Server, alone: bool
) -> None:
    async with delayed(standby):
        response = await client.post("/books/seen", params={"alone": alone})

        assert response.json() == [False, 1]
        assert "commit-lsn" in response.headers
        # The next request is another one.
        assert (await client.get("/books")).json() == [True, 0]


async def test_the_next_requests_read_it_by_the_token(client: AsyncClient, standby: Server) -> None:
    async with delayed(standby):
        tokens = [(await client.post("/books")).headers["commit-lsn"] for _ in range(2)]
        assert tokens[0] < tokens[1]

        assert (await client.get("/books")).json() == [True, 0]
        for _ in range(3):
            response = await client.get("/books", headers={"Commit-LSN": tokens[1]})
            assert response.json() == [False, 2]
            assert "commit-lsn" not in response.headers
        both = [("Commit-LSN", tokens[1]), ("Commit-LSN", tokens[0])]
        assert (await client.get("/books", headers=both)).json() == [False, 2]

    async def is_on_the_replica() -> bool:
        answer = (await client.get("/books", headers={"Commit-LSN": tokens[1]})).json()
        # However long it takes, the write is seen.
        assert answer[1] == 2
        return bool(answer[0])

    await until(is_on_the_replica)


async def test_a_write_that_stands_has_a_token_whatever_the_answer_is(client: AsyncClient) -> None:
    response = await client.post("/books/conflict")

    assert response.status_code == 503
    assert "commit-lsn" in response.headers


@pytest.mark.parametrize("token", ["", "now", "0/0, 0/1", "000000000/0", "'; DROP TABLE x"])
async def test_what_is_no_token_is_refused_by_name(client: AsyncClient, token: str) -> None:
    headers = [("Commit-LSN", "0/3000148"), ("Commit-LSN", token)]
    response = await client.get("/books", headers=headers)

    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"].startswith("Commit-LSN: expected the value of an earlier")


async def test_a_token_from_the_future_sends_reads_to_the_primary(client: AsyncClient) -> None:
    response = await client.get("/books", headers={"Commit-LSN": "FFFFFFFF/FFFFFFFF"})

    assert response.json() == [False, 0]


# --- A replica that is behind ---


async def test_a_replica_behind_the_limit_is_left_out_and_comes_back(
    strict: Server, primary: Database
) -> None:
    async with readers(primary) as answers:
        async with delayed(strict):
            written = 0

            async def is_left_out() -> bool:
                nonlocal written
                await request(write(primary))
                written += 1
                return replica.checks()["replica"] == f"it is more than {STRICT_LAG_S:g} s behind"

            await until(is_left_out)
            assert await request(look(primary)) == (False, written)
            # It stays left out while nothing is written.
            await asyncio.sleep(3 * STRICT_LAG_S)
            assert await request(look(primary)) == (False, written)
        await says("ok")

    assert await request(look(primary)) == (True, written)
    assert {True, False} == set(answers)


async def test_an_idle_primary_makes_no_lag(strict: Server) -> None:
    for _ in range(10):
        await asyncio.sleep(STRICT_LAG_S / 4)
        assert replica.checks() == OK


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_table_that_is_not_there_yet_is_read_from_the_primary(
    standby: Server, primary: Database, servers: tuple[Server, Server], prepared: bool
) -> None:
    number = func.count().label("number")
    statement = ON_REPLICA.add_columns(number).select_from(text("test_new"))
    async with administration(servers[0]) as execute:
        try:
            async with delayed(standby):
                await execute("CREATE TABLE test_new ()")
                assert await request(answered_by(primary, statement, prepared)) == "primary"
                assert replica.checks() == OK
        finally:
            await execute("DROP TABLE test_new")


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_read_in_the_way_of_the_replay_is_answered_by_the_primary(
    standby: Server,
    primary: Database,
    servers: tuple[Server, Server],
    prepared: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    count = select(func.count(Book.id)).scalar_subquery()
    slow = select(func.pg_is_in_recovery().label("on_replica"), count.label("n"), sleep(1))
    read = asyncio.create_task(request(answered_by(primary, slow, prepared)))
    async with administration(standby) as execute:
        running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        async with asyncio.timeout(PATIENCE_S):
            while not await execute(running):
                await asyncio.sleep(0.01)
    async with administration(servers[0]) as execute:
        await execute("TRUNCATE test_books")

    assert await read == "primary"
    # It is well.
    assert replica.checks() == OK
    assert "left out" not in caplog.text


# --- A replica, or a primary, that is down ---


async def test_a_replica_that_stops_is_left_out_without_an_error_and_comes_back(
    standby: Server, primary: Database, client: AsyncClient
) -> None:
    async with readers(primary) as answers:
        await asyncio.sleep(0.1)
        async with between(standby.stop, standby.start):
            await is_left_out()
            assert await request(look(primary)) == (False, 0)
            ready = await health.ready_details()
            await request(write(primary))
        await says("ok")
        await until(lambda: request(is_visible(primary, 1)))

    assert [answer for answer in answers if isinstance(answer, Exception)] == []
    assert {True, False} == set(answers)
    # None is taken from service for it.
    assert ready.status_code == 200
    details = orjson.loads(ready.body)
    assert details["status"] == "degraded"
    assert details["checks"]["replica"] != "ok"
    assert orjson.loads((await health.ready_details()).body)["checks"]["replica"] == "ok"


async def test_a_replica_that_hangs_is_left_out_without_an_error_and_comes_back(
    standby: Server, primary: Database
) -> None:
    async with readers(primary) as answers, asyncio.timeout(PATIENCE_S):
        # The pool is full.
        slow = ON_REPLICA.add_columns(sleep(0.1))
        await asyncio.gather(*(request(answered_by(primary, slow, True)) for _ in range(3)))
        async with between(standby.suspend, standby.resume):
            # All connections of the pool wait for it, and what waits for them.
            flood = [
                asyncio.create_task(request(answered_by(primary, ON_REPLICA, prepared)))
                for prepared in (True, False) * POOL_SIZE
            ]
            await says("did not answer in time")
            assert await asyncio.gather(*flood) == ["primary"] * len(flood)
            # From now on, no read waits for the replica, which returns no slot.
            assert replica._pair is not None
            reads = replica._pair.monitor.reads.gate
            # The reads that were cut still return their slots.
            while reads.in_use:
                await asyncio.sleep(0.01)
            released = reads.released
            for _ in range(50):
                assert await request(look(primary)) == (False, 0)
            assert (reads.in_use, reads.released) == (0, released)
        await says("ok")

    assert {True, False} == set(answers)


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_read_in_flight_is_answered_when_the_replica_dies(
    standby: Server, primary: Database, prepared: bool
) -> None:
    slow = select(func.pg_is_in_recovery().label("on_replica"), sleep(0.5))
    read = asyncio.create_task(request(answered_by(primary, slow, prepared)))
    await asyncio.sleep(0.2)
    assert replica.checks() == OK

    async with between(standby.stop, standby.start):
        assert await read == "primary"

    await says("ok")


async def test_a_read_that_fails_leaves_the_replica_out_before_the_monitor_does(
    standby: Server, primary: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "INTERVAL_S", 60)
    # The monitor looks once more.
    await asyncio.sleep(0.5)
    async with between(standby.stop, standby.start):
        assert replica.checks() == OK
        assert await request(look(primary)) == (False, 0)
        assert replica.checks() != OK
    # And until the monitor has seen it again.
    assert await request(look(primary)) == (False, 0)


async def test_an_answer_that_comes_too_late_for_once_breaks_off_no_read(
    standby: Server, primary: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert replica._pair is not None
    probe = replica._pair.monitor._probe
    fetch, late = probe.fetch, asyncio.Event()

    async def fetch_late_once(*arguments: Any) -> list[dict[str, Any]]:
        if not late.is_set():
            late.set()
            raise TimeoutError
        return await fetch(*arguments)

    slow = ON_REPLICA.add_columns(sleep(0.5))
    read = asyncio.create_task(request(answered_by(primary, slow, prepared=True)))
    await asyncio.sleep(0.2)
    monkeypatch.setattr(probe, "fetch", fetch_late_once)
    await late.wait()

    assert await read == "replica"
    await says("ok")


async def test_a_statement_that_takes_too_long_does_so_once(
    standby: Server, primary: Database, settings: CoreSettings
) -> None:
    hasty = settings.model_copy(update={"database_statement_timeout_s": 0.5})
    database = Database()
    database.open(hasty, pool_size=POOL_SIZE)
    second = type(replica)()
    async with second.opened(hasty, database, pool_size=POOL_SIZE):
        while second.checks() != OK:
            await asyncio.sleep(0.01)
        ran = []

        async def read(source: Database) -> None:
            ran.append(source)
            await source.fetch(PreparedRead(select(func.pg_sleep(5).label("x"))), {})

        with pytest.raises(Unavailable, match="did not answer in time"):
            await request(second.read(database, read))

        assert len(ran) == 1
        assert second.checks() == OK
    await database.close()


async def test_reads_that_fall_back_leave_the_primary_to_writes(
    standby: Server, primary: Database
) -> None:
    slow = select(func.pg_sleep(0.4))
    async with between(standby.stop, standby.start):
        await is_left_out()
        reads = [asyncio.create_task(request(ReadSession(primary).rows(slow))) for _ in range(40)]
        await asyncio.sleep(0.05)
        for _ in range(10):
            # At once, each: whoever waits in vain gets a 503.
            await request(write(primary))
        outcomes = await asyncio.gather(*reads, return_exceptions=True)

    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert {type(error) for error in errors} == {Busy}
    assert len(outcomes) - len(errors) >= POOL_SIZE // 2
    await says("ok")


async def test_the_replica_answers_while_the_primary_is_down(
    strict: Server, primary: Database, servers: tuple[Server, Server]
) -> None:
    async with readers(primary) as answers, between(servers[0].stop, servers[0].start):
        with pytest.raises(Unavailable):
            await request(write(primary))
        await asyncio.sleep(2 * STRICT_LAG_S)
        assert await request(look(primary)) == (True, 0)
        assert replica.checks() == OK

    assert set(answers) == {True}
    await request(write(primary))
    await until(lambda: request(is_visible(primary, 1)))


async def test_a_commit_whose_position_cannot_be_read_stands(
    standby: Server, primary: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        async def fetchval(self, *_: object, **__: object) -> None:
            raise OSError("gone")

    async def commit_and_look() -> tuple[bool, int]:
        await replica.committed(primary, Broken())
        return await look(primary)

    assert await request(commit_and_look()) == (False, 0)
    assert "has no commit token" in caplog.text


@pytest.mark.parametrize(
    ("which", "problem"),
    [("primary", "it does not follow the primary"), ("other", "it is not a copy of this database")],
)
async def test_a_server_that_is_no_replica_of_the_primary_is_left_out(
    which: str,
    problem: str,
    settings: CoreSettings,
    primary: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(monitor, "INTERVAL_S", 0.05)
    url = settings.database_url if which == "primary" else get_settings().database_url
    wrong = settings.model_copy(update={"database_replica_url": url})
    async with replica.opened(wrong, primary, pool_size=POOL_SIZE):
        await says(problem)
        assert await request(ReadSession(primary).scalar(ON_REPLICA)) is False


async def test_a_monitor_that_fails_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(monitor, "INTERVAL_S", 0.001)
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        raise ZeroDivisionError

    task = asyncio.create_task(monitor._again_and_again(look))

    async def has_gone_on() -> bool:
        return looks > 3

    await until(has_gone_on)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert caplog.text.count("look failed: ZeroDivisionError") == 1


# --- The service ---


async def test_the_service_serves_and_stops_whatever_its_replica_does(
    servers: tuple[Server, Server],
) -> None:
    def run() -> list[str]:
        primary, standby = servers
        subprocess.run(
            [sys.executable, "-m", "app", "migrate"],
            env=os.environ | {"DATABASE_URL": primary.url},
            check=True,
        )
        said: list[str] = []
        admin_port = free_port()
        variables = {"DATABASE_REPLICA_URL": standby.url, "ADMIN_PORT": str(admin_port)}
        with (
            serving(DATABASE_URL=primary.url, **variables) as client,
            httpx2.Client(base_url=f"http://127.0.0.1:{admin_port}") as operator,
        ):

            def wait_for(state: str) -> None:
                deadline = monotonic() + PATIENCE_S
                # More than once: there are two workers.
                while [ready() for _ in range(8)] != [state] * 8:
                    assert monotonic() < deadline, ready()

            def ready() -> str:
                response = operator.get("/readyz").raise_for_status()
                checks: dict[str, str] = response.json()["checks"]
                said.append(checks["replica"])
                return said[-1]

            wait_for("ok")
            standby.suspend()
            try:
                wait_for("The database did not answer in time.")
                assert client.get("/livez", headers={"Commit-LSN": "x"}).status_code == 400
                # Here the service ends.
                return said
            except BaseException:
                standby.resume()
                raise

    try:
        said = await asyncio.to_thread(run)
    finally:
        await asyncio.to_thread(servers[1].resume)

    assert "ok" in said


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"DATABASE_REPLICA_URL": "mysql://hunter2@x/y"}, "DATABASE_REPLICA_URL: expected postg"),
        ({"DATABASE_REPLICA_MAX_LAG_S": "0"}, "DATABASE_REPLICA_MAX_LAG_S: "),
        (
            {"DATABASE_REPLICA_URL": "postgresql://x/y", "DATABASE_POOL_SIZE": "1"},
            "DATABASE_REPLICA_URL needs at least two connections for each worker",
        ),
    ],
)
def test_a_wrong_variable_is_named(
    variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(ConfigurationError) as caught:
        load(CoreSettings).plan()

    assert expected in str(caught.value)
    assert "hunter2" not in str(caught.value)
