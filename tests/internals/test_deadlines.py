"""The time limit of a request, and clients that leave, on the real server and PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient, Response
from sqlalchemy import bindparam, event, func, insert, select, text, update

from app.core import cache as caching
from app.core.application import create_app
from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    ReadSessionDep,
    WriteSessionDep,
    database,
)
from app.core.http.deadlines import LEAST_S, deadline, sent_s
from app.core.telemetry.activity import current
from app.settings import get_settings
from tests.internals.server import served
from tests.internals.tables import Book, tables

HAS_CACHE = find_spec("app.core.cache.store") is not None
# Of the whole test, if nothing ends.
HANG_S = 50
SLEEP_S = 40
LIMIT_S = 0.4
# Long enough for a statement to begin on a busy machine.
LONG_LIMIT_S = 3.0
LOCK = 20_2020

SLOW = select(func.pg_sleep(SLEEP_S).label("a_deadline"))
PREPARED = PreparedRead(SLOW)
WRITE = PreparedWrite(insert(Book).values(title=bindparam("title")).returning(Book.id))
RENAME = PreparedWrite(update(Book).values(title=bindparam("title")))
ACTIVE = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
    "AND pid <> pg_backend_pid() AND state = 'active' AND query LIKE '%a_deadline%'"
)
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted"
# The COMMIT of an insert waits while another session holds the lock.
SLOW_COMMIT = f"""
CREATE FUNCTION test_wait() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({LOCK});
    RETURN NULL;
END $$
"""
ON_COMMIT = """
CREATE CONSTRAINT TRIGGER test_waits AFTER INSERT ON test_books
DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION test_wait()
"""

router = APIRouter()
done: list[str] = []
opened = asyncio.Event()


@router.get("/fast")
async def fast(session: ReadSessionDep) -> int:
    return await session.scalar(select(func.count()).select_from(Book)) or 0


@router.get("/prepared")
async def prepared(session: ReadSessionDep) -> None:
    await session.fetch(PREPARED)


@router.get("/orm")
async def orm(session: ReadSessionDep) -> None:
    await session.rows(SLOW)


@router.post("/prepared")
async def write_prepared(session: WriteSessionDep) -> None:
    await session.write(WRITE, title="prepared")
    await session.fetch(PREPARED)


@router.post("/orm")
async def write_orm(session: WriteSessionDep) -> None:
    session.add(Book(title="orm"))
    await session.flush()
    await session.rows(SLOW)


@router.get("/waits")
async def waits() -> None:
    try:
        await asyncio.Event().wait()
    finally:
        done.append("cancelled")


@router.get("/declared")
@deadline(LIMIT_S)
async def declared(session: ReadSessionDep) -> None:
    await session.fetch(PREPARED)


@router.get("/longer")
@deadline(2 * HANG_S)
async def longer(session: ReadSessionDep) -> str:
    activity = current.get()
    assert activity is not None
    return f"{activity.limit_s():g}"


@router.post("/autocommit")
@deadline(LONG_LIMIT_S)
async def autocommit(session: WriteSessionDep) -> None:
    await session.autocommit(RENAME, title="committed")


@router.post("/commit")
@deadline(LONG_LIMIT_S)
async def commit(session: WriteSessionDep) -> None:
    async def callback() -> None:
        await ReadSession().fetch(PreparedRead(select(func.now().label("now"))))
        done.append("callback")

    session.after_commit(callback)
    await session.write(WRITE, title="committed")


@router.get("/shared")
# The values of the mapping have one type, and the parameters have several.
@caching.public(**({"ttl_s": 60} if HAS_CACHE else {}))  # type: ignore[arg-type]
async def shared() -> str:
    activity = current.get()
    assert activity is not None
    done.append(f"{activity.limit_s():g}")
    await opened.wait()
    return "shared"


@pytest.fixture
async def outside(app: FastAPI) -> AsyncIterator[Database]:
    """A pool of the test itself."""
    pool = Database()
    pool.open(get_settings(), pool_size=2)
    async with tables():
        yield pool
    await pool.close()


Count = Callable[[str], Awaitable[int]]


@pytest.fixture
def count(outside: Database) -> Count:
    async def number(sql: str) -> int:
        async with outside.autocommit_engine.connect() as connection:
            return int(await connection.scalar(text(sql)) or 0)

    return number


def made(routes: APIRouter, timeout_s: float) -> FastAPI:
    settings = get_settings().model_copy(update={"request_timeout_s": timeout_s})
    return create_app(settings, routes, title="test", description="for tests")


@asynccontextmanager
async def site(timeout_s: float = HANG_S) -> AsyncIterator[AsyncClient]:
    done.clear()
    application = await asyncio.to_thread(made, router, timeout_s)
    async with served(application, []) as (_, listener):
        host, port = listener.getsockname()
        # It reads files.
        new = partial(AsyncClient, base_url=f"http://{host}:{port}", timeout=HANG_S)
        async with await asyncio.to_thread(new) as client:
            yield client


async def asked(client: AsyncClient, path: str) -> asyncio.StreamWriter:
    """Send a GET on a connection of its own, which the client closes when it leaves."""
    host, port = client.base_url.host, client.base_url.port
    _, writer = await asyncio.open_connection(host, port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
    return writer


async def until(is_true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(HANG_S):
        while not await is_true():
            await asyncio.sleep(0.01)


def assert_exceeded(response: Response, limit_s: float = LIMIT_S) -> None:
    assert response.status_code == 504, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["detail"] == f"There was no response within {limit_s:g} s."


async def assert_nothing_runs(client: AsyncClient, count: Count) -> None:
    async def ended() -> bool:
        return database.gate.in_use == 0 and await count(ACTIVE) == 0

    await until(ended)
    assert (await client.get("/fast")).json() == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/prepared"), ("GET", "/orm"), ("POST", "/prepared"), ("POST", "/orm")],
)
async def test_a_statement_ends_at_the_deadline(method: str, path: str, count: Count) -> None:
    async with site(LIMIT_S) as client:
        assert_exceeded(await client.request(method, path))
        # The next request may use the same connection.
        assert (await client.get("/fast", headers={"X-Request-Timeout": "30"})).status_code == 200
        await assert_nothing_runs(client, count)


async def test_a_wait_for_a_connection_ends_at_the_deadline(count: Count) -> None:
    limit_s = get_settings().database_pool_timeout_s / 5
    async with site() as client:
        for _ in range(database.gate.size):
            await database.gate.acquire()
        response = await client.get("/fast", headers={"X-Request-Timeout": f"{limit_s:g}"})
        assert_exceeded(response, limit_s)
        for _ in range(database.gate.size):
            database.gate.release()
        await assert_nothing_runs(client, count)


async def test_a_client_and_a_route_may_shorten_the_limit(count: Count) -> None:
    async with site() as client:
        assert_exceeded(await client.get("/prepared", headers={"X-Request-Timeout": f"{LIMIT_S}"}))
        assert_exceeded(await client.get("/declared", headers={"X-Request-Timeout": "20"}))
        # A route may also have more time, but no client gives itself more.
        for sent in ("1000", "soon"):
            longest = await client.get("/longer", headers={"X-Request-Timeout": sent})
            assert longest.json() == f"{2 * HANG_S}"
        await assert_nothing_runs(client, count)


@pytest.mark.parametrize(
    ("value", "limit_s"),
    [
        (b"2", 2),
        (b" 0.25\t", 0.25),
        (b".5", 0.5),
        (b"0.002", LEAST_S),
        *((wrong, float("inf")) for wrong in (b"", b"0", b"0.00", b"-1", b"1e3", b"nan", b"1,5")),
        *((wrong, float("inf")) for wrong in (b"1.2.3", b"1 2", b".", b"\xb2", b"9" * 5000)),
    ],
)
def test_a_limit_is_a_number_of_seconds(value: bytes, limit_s: float) -> None:
    assert sent_s([(b"host", b"test"), (b"x-request-timeout", value)]) == limit_s


@pytest.mark.parametrize("limit_s", [0, -1, float("inf"), float("nan")])
def test_a_route_declares_a_number_of_seconds(limit_s: float) -> None:
    with pytest.raises(ValueError, match="deadline: expected a number of seconds above 0"):
        deadline(limit_s)


@pytest.mark.usefixtures("app")
async def test_a_read_that_waits_for_anything_else_ends_soon_after_the_deadline() -> None:
    async with site(LIMIT_S) as client:
        assert_exceeded(await client.get("/waits"))

        async def ended() -> bool:
            return done == ["cancelled"]

        await until(ended)


@pytest.mark.parametrize("path", ["/autocommit", "/commit"])
async def test_a_commit_outlives_the_deadline(
    path: str, outside: Database, count: Count, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_statement_timeout_s", HANG_S)
    async with site() as client:
        assert (await client.post("/commit")).status_code == 200
        done.clear()
        async with outside.engine.begin() as other:
            await other.execute(text(SLOW_COMMIT))
            await other.execute(text(ON_COMMIT))
        try:
            async with outside.engine.begin() as other:
                await other.execute(text(f"SELECT pg_advisory_xact_lock({LOCK})"))
                await other.execute(text("UPDATE test_books SET rating = 1"))
                request = asyncio.create_task(client.post(path))

                async def is_waiting() -> bool:
                    return await count(WAITING) == 1

                await until(is_waiting)
                await asyncio.sleep(LONG_LIMIT_S)
                assert not request.done()
            assert (await request).status_code == 200, request.result().text
        finally:
            async with outside.engine.begin() as other:
                await other.execute(text("DROP FUNCTION test_wait CASCADE"))
        assert await count("SELECT count(*) FROM test_books WHERE title = 'committed'") == (
            1 if path == "/autocommit" else 2
        )
        # What follows the commit has no limit.
        assert done == (["callback"] if path == "/commit" else [])


@pytest.mark.parametrize("path", ["/prepared", "/orm"])
async def test_a_client_that_leaves_ends_its_query(path: str, count: Count) -> None:
    async with site() as client:
        writer = await asked(client, path)

        async def runs() -> bool:
            return await count(ACTIVE) == 1

        await until(runs)
        writer.close()
        await assert_nothing_runs(client, count)


@pytest.mark.parametrize("path", ["/prepared", "/orm"])
async def test_100_reads_that_are_cut_keep_their_connections(path: str, count: Count) -> None:
    made: list[object] = []
    headers = {"X-Request-Timeout": f"{LEAST_S}"}

    async with site() as client:
        event.listen(database.engine.sync_engine, "connect", lambda *new: made.append(new))

        async def exceed() -> None:
            for _ in range(10):
                assert_exceeded(await client.get(path, headers=headers), LEAST_S)

        async def leave() -> None:
            for _ in range(10):
                writer = await asked(client, path)
                await asyncio.sleep(LEAST_S)
                writer.close()

        await asyncio.gather(*(exceed() for _ in range(5)), *(leave() for _ in range(5)))
        await assert_nothing_runs(client, count)
        size = database.gate.size

    # One connection for each slot; some are closed because this machine is busy.
    assert len(made) <= 2 * size <= 20


@pytest.mark.timeout(120)
async def test_200_requests_that_end_early_lose_no_slot(count: Count) -> None:
    limits = ("0.1", "0.15", "0.2")
    statuses: list[int] = []

    async with site() as client:

        async def exceed(number: int) -> None:
            method, path = ("GET", "POST")[number % 2], ("/prepared", "/orm")[number // 2 % 2]
            headers = {"X-Request-Timeout": limits[number % 3]}
            statuses.append((await client.request(method, path, headers=headers)).status_code)

        async def leave(number: int) -> None:
            writer = await asked(client, ("/prepared", "/orm")[number % 2])
            await asyncio.sleep(number % 5 * 0.01)
            writer.close()

        for first in range(0, 100, 20):
            numbers = range(first, first + 20)
            await asyncio.gather(*map(exceed, numbers), *map(leave, numbers))
        await assert_nothing_runs(client, count)

    # 503: no connection within its own limit.
    assert len(statuses) == 100
    assert {*statuses} <= {503, 504}
    assert 504 in statuses


@pytest.mark.skipif(not HAS_CACHE, reason="no response is shared")
@pytest.mark.usefixtures("app")
async def test_a_shared_load_has_the_limit_of_no_client() -> None:
    opened.clear()
    import_module("app.core.cache").cache.local.clear()
    async with site() as client:
        short = asyncio.create_task(
            client.get("/shared", headers={"X-Request-Timeout": f"{LIMIT_S}"})
        )

        async def began() -> bool:
            return len(done) == 1

        await until(began)
        other = asyncio.create_task(client.get("/shared"))
        assert_exceeded(await short)
        opened.set()
        assert (await other).json() == "shared"
        assert done == [f"{HANG_S}"]


async def test_the_body_of_a_request_takes_no_time_of_its_limit() -> None:
    received: list[Any] = []
    receiving = APIRouter()

    @receiving.post("/body")
    async def body(text: dict[str, str]) -> None:
        activity = current.get()
        assert activity is not None
        received.append(activity.remaining_s() > 0)

    application = await asyncio.to_thread(made, receiving, LONG_LIMIT_S)
    async with served(application, []) as (_, listener):
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        head = "POST /body HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: 2\r\n\r\n{{".encode())
        await asyncio.sleep(LONG_LIMIT_S)
        writer.write(b"}")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()
    assert received == [True]
