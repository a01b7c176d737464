"""Commits whose outcome is unknown, and sessions around their end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from anyio import CancelScope
from fastapi import APIRouter, FastAPI
from fastapi.responses import StreamingResponse
from httpx2 import ASGITransport, AsyncClient
from pydantic import SecretStr
from sqlalchemy import bindparam, func, insert, make_url, select

from app.core.application import create_app
from app.core.database import Database, PreparedWrite, ReadSession, WriteSession, WriteSessionDep
from app.core.database.sessions import drain
from app.core.http.problems import Unavailable
from app.settings import get_settings
from tests.internals.tables import Book, Shelf, tables

ADD = PreparedWrite(insert(Book).values(title=bindparam("title")).returning(Book.id))


@pytest.fixture(autouse=True)
async def _tables(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        yield


class Callback:
    """Counts its calls that run to their end."""

    def __init__(self) -> None:
        self.calls = 0

    async def __call__(self) -> None:
        await asyncio.sleep(0)
        self.calls += 1


@pytest.fixture
def callback() -> Callback:
    return Callback()


class Proxy:
    """A proxy in front of PostgreSQL that loses a message with `word`, or the reply to it."""

    def __init__(self, word: bytes, *, delivers: bool, resets: bool) -> None:
        self._word = word
        self._delivers = delivers
        self._resets = resets
        self._port = make_url(get_settings().database_url.get_secret_value()).port

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        lost = False

        async def requests() -> None:
            nonlocal lost
            while data := await reader.read(65536):
                lost = lost or self._word in data
                if lost and not self._delivers:
                    back.write(b"X\0\0\0\4")  # The client is gone: the server rolls back.
                else:
                    back.write(data)
            back.close()

        async def replies() -> None:
            while data := await there.read(65536):
                if lost and self._resets:
                    writer.transport.abort()
                elif not lost:
                    writer.write(data)
            if self._resets:
                writer.transport.abort()

        await asyncio.gather(requests(), replies(), return_exceptions=True)
        writer.transport.abort()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A database behind the proxy, with one connection."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        settings = get_settings()
        url = make_url(settings.database_url.get_secret_value())
        url = url.set(port=server.sockets[0].getsockname()[1])
        database = Database()
        changed = {
            "database_url": SecretStr(url.render_as_string(hide_password=False)),
            "database_statement_timeout_s": 0.3,
        }
        database.open(settings.model_copy(update=changed), pool_size=1)
        try:
            yield database
        finally:
            await database.close()
            server.close()


@pytest.mark.parametrize("resets", [True, False])
@pytest.mark.parametrize("delivers", [True, False])
async def test_a_commit_of_unknown_outcome_calls_back(
    callback: Callback, monkeypatch: pytest.MonkeyPatch, delivers: bool, resets: bool
) -> None:
    """An invalidation must not be missed, and a job looks for its row."""
    monkeypatch.setattr("app.core.database.sessions.SETTLE_TIMEOUT_S", 0.01)
    async with Proxy(b"COMMIT", delivers=delivers, resets=resets).database() as database:
        with pytest.raises(Unavailable, match="may be stored"):
            async with WriteSession(database) as session:
                session.add(Book(title="x"))
                session.after_commit(callback)

        assert callback.calls == 1
        # The connection is given back.
        assert await ReadSession(database).scalar(select(func.now()))
    assert len(await ReadSession().scalars(select(Book))) == delivers


@pytest.mark.parametrize("resets", [True, False])
async def test_a_single_write_of_unknown_outcome_calls_back(
    callback: Callback, monkeypatch: pytest.MonkeyPatch, resets: bool
) -> None:
    monkeypatch.setattr("app.core.database.sessions.SETTLE_TIMEOUT_S", 0.01)
    async with Proxy(b"lost", delivers=True, resets=resets).database() as database:
        async with WriteSession(database) as session:
            await session.autocommit(ADD, title="x")
        with pytest.raises(Unavailable, match="may be stored"):
            async with WriteSession(database) as session:
                session.after_commit(callback)
                await session.autocommit(ADD, title="lost")

        assert callback.calls == 1
        assert await ReadSession(database).scalar(select(func.now()))
    assert len(await ReadSession().scalars(select(Book))) == 2


async def test_a_commit_in_a_cancelled_scope_calls_back(
    callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scope, as of a streamed response whose client leaves, cancels each wait within it."""
    monkeypatch.setattr("app.core.database.sessions.SETTLE_TIMEOUT_S", 0.01)
    async with Proxy(b"COMMIT", delivers=True, resets=False).database() as database:
        with CancelScope() as scope:
            async with WriteSession(database) as session:
                await session.execute(insert(Book).values(title="x"))
                session.after_commit(callback)
                session.after_commit(callback)
                asyncio.get_running_loop().call_later(0.05, scope.cancel)

        assert scope.cancelled_caught
        assert callback.calls == 2
        assert await ReadSession(database).scalar(select(func.now()))


async def test_a_cancellation_waits_for_the_callbacks(callback: Callback) -> None:
    has_committed = asyncio.Event()

    async def slow() -> None:
        has_committed.set()
        await asyncio.sleep(0.05)
        await callback()

    async def write() -> None:
        async with WriteSession() as session:
            await session.execute(insert(Book).values(title="x"))
            session.after_commit(slow)
            session.after_commit(callback)

    task = asyncio.create_task(write())
    await has_committed.wait()
    for _ in range(2):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    # As at the end of a worker, which does not wait for the requests that it cancels.
    await drain()
    assert callback.calls == 2
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_end_returns_the_slot() -> None:
    single = Database()
    single.open(get_settings(), pool_size=1)
    await single.gate.acquire()
    forgotten: list[asyncio.Task[object]] = []

    async def write() -> None:
        async with WriteSession(single) as session:
            forgotten.append(asyncio.create_task(session.scalar(select(func.now()))))
            await asyncio.sleep(0)

    task = asyncio.create_task(write())
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    single.gate.release()

    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(RuntimeError, match="is not open"):
        await forgotten[0]
    assert await ReadSession(single).scalar(select(func.now()))
    await single.close()


async def test_a_commit_that_is_cancelled_calls_back(
    callback: Callback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.database.sessions.SETTLE_TIMEOUT_S", 0.01)
    async with Proxy(b"COMMIT", delivers=True, resets=False).database() as database:

        async def write() -> None:
            async with WriteSession(database) as session:
                await session.execute(insert(Book).values(title="x"))
                session.after_commit(callback)
                asyncio.get_running_loop().call_later(0.05, task.cancel)

        task = asyncio.create_task(write())
        with pytest.raises(asyncio.CancelledError):
            await task

    assert callback.calls == 1


async def test_a_write_that_is_refused_calls_nothing(callback: Callback) -> None:
    with pytest.raises(Exception, match="too long"):
        async with WriteSession() as session:
            session.after_commit(callback)
            await session.autocommit(ADD, title="x" * 51)
    async with WriteSession() as session:
        session.after_commit(callback)
        with pytest.raises(Exception, match="too long"):
            await session.autocommit(ADD, title="x" * 51)

    assert callback.calls == 0


async def test_without_a_statement_there_is_nothing_to_wait_for(callback: Callback) -> None:
    async with WriteSession() as session:
        session.after_commit(callback)

    assert callback.calls == 1


async def test_a_transaction_that_goes_on_after_an_error_is_no_success(callback: Callback) -> None:
    with pytest.raises(RuntimeError, match="rolled it back"):
        async with WriteSession() as session:
            session.after_commit(callback)
            await session.execute(insert(Shelf).values(name="x"))
            with pytest.raises(Exception, match="too long"):
                await session.execute(insert(Book).values(title="x" * 51))

    assert callback.calls == 0
    assert await ReadSession().scalars(select(Shelf)) == []


router = APIRouter()


@router.post("/stream")
async def stream(session: WriteSessionDep) -> StreamingResponse:
    async def rows() -> AsyncIterator[str]:
        for title in await session.scalars(select(Book.title)):
            yield title

    return StreamingResponse(rows())


async def test_a_session_is_refused_after_its_end(callback: Callback) -> None:
    single = Database()
    single.open(get_settings(), pool_size=1)
    async with WriteSession(single) as session:
        await session.execute(insert(Book).values(title="x"))

    for use in (
        lambda: session.scalar(select(Book)),
        lambda: session.execute(insert(Book).values(title="y")),
        lambda: session.write(ADD, title="y"),
        lambda: session.autocommit(ADD, title="y"),
        lambda: session.flush(),
    ):
        with pytest.raises(RuntimeError, match="is not open"):
            await use()
    with pytest.raises(RuntimeError, match="is not open"):
        session.add(Book(title="y"))
    with pytest.raises(RuntimeError, match="is not open"):
        session.after_commit(callback)
    # The only connection is free.
    assert await ReadSession(single).scalars(select(Book.title)) == ["x"]
    await single.close()


@pytest.fixture
def books() -> FastAPI:
    return create_app(get_settings(), router, title="books", description="for tests")


async def test_a_stream_cannot_use_the_session_of_its_request(books: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(books), base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="is not open"):
            await client.post("/stream")


async def test_a_connection_that_the_driver_has_aborted_hides_no_error() -> None:
    """asyncpg does so if a statement takes too long, and its cancellation fails."""
    single = Database()
    single.open(get_settings(), pool_size=1)
    with pytest.raises(Unavailable):
        async with WriteSession(single) as session:
            await session.execute(insert(Book).values(title="x"))
            assert session._begun
            driver: Any = session._begun.driver_connection
            driver.terminate()

    assert await ReadSession(single).scalars(select(Book.title)) == []
    await single.close()


async def test_tasks_that_share_a_session_take_one_connection() -> None:
    single = Database()
    single.open(get_settings(), pool_size=1)
    async with WriteSession(single) as session:
        await asyncio.gather(*(session.scalar(select(func.now())) for _ in range(3)))

    assert await ReadSession(single).scalar(select(func.now()))
    await single.close()
