"""Sessions: what they commit and when, what they hold, and what they refuse."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import Any, TypeVar
from uuid import uuid4

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError, InvalidRequestError, MultipleResultsFound
from sqlalchemy.orm import joinedload

from app.core.application import create_app
from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    ReadSessionDep,
    WriteSession,
    WriteSessionDep,
    database,
    violated_constraint,
)
from app.core.http.problems import Busy, Unavailable, Unprocessable
from app.settings import get_settings
from tests.internals.tables import Book, Shelf, tables

T = TypeVar("T")

router = APIRouter()


async def elsewhere(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run it as another request would."""
    return await asyncio.create_task(coroutine, context=Context())


@router.post("/books", status_code=201)
async def add_book(title: str, session: WriteSessionDep, shelf: str | None = None) -> None:
    session.add(Book(title=title, shelf_id=uuid4() if shelf else None))


@router.post("/books/next", status_code=201)
async def add_next_book(reads: ReadSessionDep, session: WriteSessionDep) -> None:
    number = await reads.scalar(select(func.count()).select_from(Book))
    session.add(Book(title=f"book {number}"))


@router.get("/books")
async def count_books(session: ReadSessionDep) -> int:
    return await session.scalar(select(func.count()).select_from(Book)) or 0


@pytest.fixture(autouse=True)
async def _tables(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        yield


@pytest.fixture
def books() -> FastAPI:
    return create_app(get_settings(), router, title="books", description="for tests")


@pytest.fixture
async def client(app: FastAPI, books: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(books, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


@pytest.fixture
def pool_size() -> int:
    return get_settings().plan().pool_size


@pytest.fixture
async def single() -> AsyncIterator[Database]:
    """A database with one connection, which nobody else uses."""
    database = Database()
    database.open(get_settings(), pool_size=1)
    yield database
    await database.close()


def checked_by_mypy(
    read: ReadSession, write: WriteSession, select_: PreparedRead, insert_: PreparedWrite
) -> None:
    """Never run: an ignore that is not needed fails the type check."""

    def reads(_: ReadSession) -> None: ...
    def writes(_: WriteSession) -> None: ...

    reads(write)
    writes(read)  # type: ignore[arg-type]
    read.fetch(insert_)  # type: ignore[arg-type, unused-coroutine]
    read.write(insert_)  # type: ignore[attr-defined]
    write.write(select_)  # type: ignore[arg-type, unused-coroutine]


async def test_the_next_request_sees_the_write(client: AsyncClient) -> None:
    for expected in range(1, 6):
        assert (await client.post("/books", params={"title": "x"})).status_code == 201
        assert (await client.get("/books")).json() == expected


async def test_a_commit_that_fails_is_an_error_to_the_client(client: AsyncClient) -> None:
    response = await client.post("/books", params={"title": "x", "shelf": "missing"})

    assert response.status_code == 409
    assert (await client.get("/books")).json() == 0


async def test_an_error_rolls_back_and_calls_nobody_back() -> None:
    called = []

    async def callback() -> None:
        called.append(True)

    with pytest.raises(ZeroDivisionError):
        async with WriteSession() as session:
            session.add(Book(title="x"))
            await session.flush()
            session.after_commit(callback)
            raise ZeroDivisionError

    assert await ReadSession().scalars(select(Book)) == []
    assert called == []


async def test_after_commit_others_see_the_row_and_errors_stay_inside() -> None:
    seen: list[str] = []

    async def fail() -> None:
        raise ZeroDivisionError

    async def look() -> None:
        seen.extend(await ReadSession().scalars(select(Book.title)))

    async with WriteSession() as session:
        session.add(Book(title="x"))
        session.after_commit(fail)
        session.after_commit(look)

    assert seen == ["x"]


async def test_a_write_session_reads_its_own_transaction() -> None:
    async with WriteSession() as session:
        book = Book(title="x")
        session.add(book)
        await session.flush()

        assert await session.scalar(select(Book.title)) == "x"
        assert await elsewhere(ReadSession().scalar(select(Book.title))) is None

        statement = update(Book).where(Book.id == book.id).values(title="y").returning(Book.title)
        assert await session.returning(statement) == "y"
        with pytest.raises(TypeError, match="PreparedWrite"):
            await session.execute(update(Book).values(title="z").returning(Book.id, Book.title))
        assert (await session.execute(delete(Book))).rowcount == 1


async def test_a_read_gives_its_connection_back_before_its_result_is_used(
    single: Database,
) -> None:
    session = ReadSession(single)
    async with WriteSession() as write:
        shelf = Shelf(name="top")
        write.add(shelf)
        await write.flush()
        for title in ("a", "b"):
            write.add(Book(title=title, shelf_id=shelf.id))

    books = await session.scalars(select(Book).options(joinedload(Book.shelf)).order_by(Book.title))
    rows = await session.rows(select(Book.title, func.length(Book.title)).order_by(Book.title))

    assert [book.shelf.name for book in books if book.shelf] == ["top", "top"]
    assert [tuple(row) for row in rows] == [("a", 1), ("b", 1)]


async def test_a_relationship_is_never_loaded_by_accident() -> None:
    async with WriteSession() as session:
        shelf = Shelf(name="top")
        session.add(shelf)
        await session.flush()
        session.add(Book(title="a", shelf_id=shelf.id))

    async with WriteSession() as session:
        book = await session.scalar(select(Book))
        assert book is not None
        with pytest.raises(InvalidRequestError, match="raise_on_sql"):
            _ = book.shelf


async def test_equal_values_of_different_rows_are_all_there() -> None:
    async with WriteSession() as session:
        shelf = Shelf(name="top")
        session.add(shelf)
        await session.flush()
        for _ in range(3):
            session.add(Book(title="same", shelf_id=shelf.id))

    assert await ReadSession().scalars(select(Book.title)) == ["same"] * 3
    with pytest.raises(MultipleResultsFound):
        await ReadSession().scalar(select(Book.title))
    repeated = select(Shelf).join(Book, Book.shelf_id == Shelf.id)
    assert [each.name for each in await ReadSession().scalars(repeated)] == ["top"]


async def test_a_statement_that_takes_too_long_is_unavailable(app: FastAPI) -> None:
    hasty = Database()
    settings = get_settings().model_copy(update={"database_statement_timeout_s": 0.1})
    hasty.open(settings, pool_size=1)

    with pytest.raises(Unavailable, match="did not answer in time"):
        await ReadSession(hasty).scalar(select(func.pg_sleep(30)))
    assert await ReadSession(hasty).scalar(select(func.now()))

    await hasty.close()


async def test_parallel_reads_share_one_connection_without_waiting_for_each_other(
    single: Database,
) -> None:
    session = ReadSession(single)

    counts = await asyncio.gather(
        *(session.scalar(select(func.count()).select_from(Book)) for _ in range(8))
    )

    assert counts == [0] * 8


async def test_an_exhausted_pool_is_unavailable_and_not_a_hang(single: Database) -> None:
    async with WriteSession(single) as holder:
        await holder.scalar(select(Book))
        with pytest.raises(Busy, match="in use"):
            async with asyncio.timeout(5):
                await elsewhere(ReadSession(single).scalar(select(Book)))


async def test_requests_that_read_and_then_write_do_not_wait_for_themselves(
    client: AsyncClient, pool_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a slow machine, the last of them waits longer than the time limit of a service.
    monkeypatch.setattr(database.gate, "_timeout_s", 20)
    responses = await asyncio.gather(*(client.post("/books/next") for _ in range(4 * pool_size)))

    assert {response.status_code for response in responses} == {201}
    assert (await client.get("/books")).json() == 4 * pool_size


async def test_to_hold_two_connections_is_an_error_at_once() -> None:
    with pytest.raises(RuntimeError, match="read through that session"):
        async with WriteSession() as session:
            await session.execute(insert(Book).values(title="x"))
            await ReadSession().scalar(select(Book.title))

    assert await ReadSession().scalars(select(Book)) == []


async def test_a_read_survives_connections_that_the_server_closed(single: Database) -> None:
    session = ReadSession(single)
    pid = await session.scalar(select(func.pg_backend_pid()))
    async with WriteSession() as other:
        await other.scalar(select(func.pg_terminate_backend(pid)))
    await asyncio.sleep(0.1)

    assert await session.scalar(select(func.pg_backend_pid())) != pid


async def test_a_write_on_a_closed_connection_is_unavailable(single: Database) -> None:
    with pytest.raises(Unavailable):
        async with WriteSession(single) as session:
            pid = await session.scalar(select(func.pg_backend_pid()))
            async with WriteSession() as other:
                await other.scalar(select(func.pg_terminate_backend(pid)))
            await asyncio.sleep(0.1)
            session.add(Book(title="x"))

    assert await ReadSession().scalars(select(Book)) == []


async def test_a_violated_constraint_has_a_name() -> None:
    with pytest.raises(IntegrityError) as caught:
        async with WriteSession() as session:
            session.add(Shelf(name="top"))
            session.add(Shelf(name="top"))

    assert violated_constraint(caught.value) == "test_shelves_name_key"


async def test_text_that_cannot_be_stored_is_the_callers_error() -> None:
    with pytest.raises(Unprocessable):
        async with WriteSession() as session:
            await session.execute(insert(Book).values(title="\x00"))


async def test_a_transaction_of_the_engine_that_is_cut_leaves_nothing_open(
    single: Database,
) -> None:
    async def write() -> None:
        async with single.engine.begin() as connection:
            await connection.execute(text("SELECT 1"))

    # Turns of the event loop until the cancellation, so that some of them meet the BEGIN.
    for turns in [*range(50)] * 2:
        task = asyncio.create_task(write())
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        async with single.autocommit_engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None
            assert not driver.is_in_transaction()
