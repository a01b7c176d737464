"""The classification of database errors, and what each kind does to connections."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import (
    DateTime,
    Dialect,
    Enum,
    Integer,
    String,
    TypeDecorator,
    bindparam,
    cast,
    event,
    func,
    insert,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import StatementError
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    WriteSession,
    database,
)
from app.core.database.errors import Kind, is_rollback, kind_of
from app.core.http.problems import Unavailable, Unprocessable
from app.core.operations import health
from app.settings import get_settings
from tests.core.budget import QueryBudget
from tests.internals.tables import Book, Shelf, tables

RAISE = (
    "CREATE FUNCTION test_raise(state text) RETURNS int LANGUAGE plpgsql AS "
    "$$BEGIN RAISE EXCEPTION USING ERRCODE = state; END$$"
)
ADD = PreparedWrite(insert(Shelf).values(name=bindparam("name")).returning(Shelf.id))


@pytest.fixture(autouse=True)
async def _tables(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        yield


def opened(**changed: Any) -> Database:
    """A database with one connection; `changed` are parts of its URL."""
    url = make_url(get_settings().database_url.get_secret_value()).set(**changed)
    secret = SecretStr(url.render_as_string(hide_password=False))
    single = Database()
    single.open(get_settings().model_copy(update={"database_url": secret}), pool_size=1)
    return single


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NumericValueOutOfRangeError", Kind.VALUE),
        ("StringDataRightTruncationError", Kind.VALUE),
        ("UntranslatableCharacterError", Kind.VALUE),
        ("InvalidTextRepresentationError", Kind.VALUE),
        ("DataError", Kind.VALUE),
        ("ProgramLimitExceededError", Kind.VALUE),
        ("NotNullViolationError", Kind.VALUE),
        ("CheckViolationError", Kind.VALUE),
        ("UniqueViolationError", Kind.CONFLICT),
        ("ForeignKeyViolationError", Kind.CONFLICT),
        ("ExclusionViolationError", Kind.CONFLICT),
        ("InvalidPasswordError", Kind.UNAVAILABLE),
        ("InvalidAuthorizationSpecificationError", Kind.UNAVAILABLE),
        ("InvalidCatalogNameError", Kind.UNAVAILABLE),
        ("SerializationError", Kind.UNAVAILABLE),
        ("DeadlockDetectedError", Kind.UNAVAILABLE),
        ("LockNotAvailableError", Kind.UNAVAILABLE),
        ("QueryCanceledError", Kind.UNAVAILABLE),
        ("DiskFullError", Kind.UNAVAILABLE),
        ("TooManyConnectionsError", Kind.UNAVAILABLE),
        ("PostgresIOError", Kind.UNAVAILABLE),
        ("DataCorruptedError", Kind.UNAVAILABLE),
        ("IndexCorruptedError", Kind.UNAVAILABLE),
        ("ReadOnlySQLTransactionError", Kind.CONNECTION),
        ("IdleInTransactionSessionTimeoutError", Kind.CONNECTION),
        ("AdminShutdownError", Kind.CONNECTION),
        ("ConnectionDoesNotExistError", Kind.CONNECTION),
        ("InvalidCachedStatementError", Kind.CONNECTION),
        ("OutdatedSchemaCacheError", Kind.CONNECTION),
        ("InvalidSQLStatementNameError", Kind.CONNECTION),
        ("DuplicatePreparedStatementError", Kind.CONNECTION),
        ("InternalServerError", Kind.CONNECTION),
        ("DivisionByZeroError", Kind.PROGRAM),
        ("UndefinedTableError", Kind.PROGRAM),
        ("PostgresSyntaxError", Kind.PROGRAM),
        ("InsufficientPrivilegeError", Kind.PROGRAM),
        ("InFailedSQLTransactionError", Kind.PROGRAM),
        ("FeatureNotSupportedError", Kind.PROGRAM),
        ("RaiseError", Kind.PROGRAM),
        ("InterfaceError", Kind.PROGRAM),
    ],
)
async def test_kinds(name: str, kind: Kind) -> None:
    error = getattr(asyncpg, name)("")

    assert kind_of(error) is kind
    assert kind_of(error, is_closed=True) is Kind.CONNECTION


async def test_kinds_of_the_network() -> None:
    assert kind_of(ConnectionResetError()) is Kind.CONNECTION
    assert kind_of(TimeoutError()) is kind_of(TimeoutError(), is_closed=True) is Kind.TIMEOUT
    assert kind_of(ZeroDivisionError()) is Kind.PROGRAM


@pytest.mark.parametrize(
    ("name", "severity", "expected"),
    [
        ("UniqueViolationError", "ERROR", True),
        ("SerializationError", "ERROR", True),
        ("DataError", None, True),  # The driver has refused it.
        ("AdminShutdownError", "FATAL", False),
        ("StatementCompletionUnknownError", "ERROR", False),
        ("ConnectionDoesNotExistError", None, False),
        ("InternalClientError", None, False),
        ("InterfaceError", None, True),
    ],
)
async def test_outcomes_that_are_known(name: str, severity: str | None, expected: bool) -> None:
    error = getattr(asyncpg, name)("")
    error.severity_en = severity

    assert is_rollback(error) is expected
    assert not is_rollback(TimeoutError())


class Colour(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        raise LookupError("no such colour")


@pytest.mark.parametrize(
    ("statement", "field"),
    [
        (select(Book.id).where(bindparam("n", 2**40, Integer) == 1), "n"),
        (select(Book.id).where(Book.title == "cut \ud83d"), "title"),
        (
            select(Book.id).where(
                bindparam("at", datetime.fromisoformat("2024-01-01T00:00Z"), DateTime())
                == func.now()
            ),
            "at",
        ),
        (
            select(Book.id).where(
                cast(bindparam("j", {"x": float("nan")}, JSONB), JSONB).is_(None)
            ),
            "",
        ),
        (
            select(Book.id).where(
                bindparam("e", "c", Enum("a", "b", native_enum=False, validate_strings=True)) == "a"
            ),
            "",
        ),
    ],
)
async def test_a_value_that_is_refused_is_the_clients(statement: Any, field: str) -> None:
    with pytest.raises(Unprocessable, match=f"Not valid: {field}" if field else "value"):
        await ReadSession().scalars(statement)


async def test_a_bug_in_a_type_is_not_the_clients() -> None:
    with pytest.raises(StatementError, match="no such colour"):
        await ReadSession().scalar(select(bindparam("c", "red", Colour())))
    with pytest.raises(LookupError, match="no such colour"):
        await ReadSession().fetch(
            PreparedRead(select(bindparam("c", type_=Colour()).label("c"))), c="red"
        )


@pytest.mark.parametrize(
    ("type_", "value"),
    [
        (Integer(), 2**40),
        # A type of SQLAlchemy refuses it.
        (Enum("a", "b", native_enum=False, validate_strings=True), "c"),
    ],
)
async def test_an_argument_of_the_prepared_lane_is_named(type_: Any, value: Any) -> None:
    statement = PreparedRead(select(Book.id).where(bindparam("n", type_=type_).is_not(None)))
    with pytest.raises(Unprocessable, match="Not valid: n"):
        await ReadSession().fetch(statement, n=value)


async def test_a_migration_while_the_service_serves() -> None:
    single = opened()
    session = ReadSession(single)
    alter = [
        text("ALTER TABLE test_books ALTER title TYPE varchar(90)"),
        text("ALTER TABLE test_books ALTER title TYPE text"),
    ]
    for change in alter:
        await session.scalars(select(Book.title))
        async with WriteSession(single) as write:
            await write.scalars(select(Book.title))
        async with database.autocommit_engine.connect() as connection:
            await connection.execute(change)
        assert await session.scalars(select(Book.title)) == []

    async with WriteSession(single) as write:
        await write.returning(insert(Book).values(title="x").returning(Book.title))
    async with database.autocommit_engine.connect() as connection:
        await connection.execute(text("ALTER TABLE test_books ALTER title TYPE varchar(90)"))
    with pytest.raises(Unavailable):
        async with WriteSession(single) as write:
            await write.returning(insert(Book).values(title="y").returning(Book.title))
    async with WriteSession(single) as write:
        await write.returning(insert(Book).values(title="z").returning(Book.title))
    await single.close()


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_server_that_turned_read_only_loses_its_connections(prepared: bool) -> None:
    single = opened()

    async def write(name: str) -> None:
        async with WriteSession(single) as session:
            if prepared:
                await session.write(ADD, name=name)
            else:
                await session.execute(insert(Shelf).values(name=name))

    async with single.gate, single.autocommit_engine.connect() as connection:
        await connection.execute(text("SET default_transaction_read_only = on"))
    with pytest.raises(Unavailable):
        await write("x")
    await write("y")
    assert await ReadSession(single).scalars(select(Shelf.name)) == ["y"]
    await single.close()


# 25006 concerns the server, and an internal error one connection.
@pytest.mark.parametrize(("state", "replaced"), [("25006", 2), ("XX000", 1)])
async def test_an_error_that_comes_again_on_a_new_connection_does_not_replace_it(
    state: str, replaced: int, queries: QueryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.core.database.engine.RECURRENCE_S", 60)
    double = Database()
    double.open(get_settings(), pool_size=2)
    session = ReadSession(double)
    opened: list[ConnectionPoolEntry] = []
    event.listen(double.engine.sync_engine, "connect", lambda _, entry: opened.append(entry))
    async with database.engine.begin() as connection:
        await connection.execute(text(RAISE))
    failing = PreparedRead(select(func.test_raise(bindparam("state", type_=String)).label("n")))

    async def use_both() -> None:
        await asyncio.gather(*(session.scalar(select(func.pg_sleep(0.05))) for _ in range(2)))

    await use_both()
    for entry in opened:
        entry.info["opened_s"] = -60.0
    # The first read is repeated.
    with queries.exactly(4):
        for _ in range(3):
            with pytest.raises(Unavailable, match="cannot serve the request now"):
                await session.fetch(failing, state=state)
    await use_both()

    assert len(opened) == 2 + replaced
    await double.close()
    async with database.engine.begin() as connection:
        await connection.execute(text("DROP FUNCTION test_raise"))


async def test_a_refused_role_is_unavailable_until_its_file_has_another_one(
    tmp_path: Path, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = make_url(get_settings().database_url.get_secret_value())
    file = tmp_path / "url"
    monkeypatch.setenv("DATABASE_URL_FILE", str(file))
    single = opened(password="old")  # noqa: S106
    for content in (None, "nothing", url.set(password="old").render_as_string(False)):  # noqa: S106
        if content:
            await asyncio.to_thread(file.write_text, content)
        with pytest.raises(Unavailable, match="refuses the connection"):
            await ReadSession(single).scalar(select(func.now()))
    await asyncio.to_thread(file.write_text, url.render_as_string(hide_password=False))
    assert await ReadSession(single).scalar(select(func.now()))
    # The next connection has it, too.
    await asyncio.to_thread(file.unlink)
    await single.engine.dispose()
    assert await ReadSession(single).fetch(PreparedRead(select(func.now().label("n"))))
    await single.close()


@pytest.mark.parametrize(
    "changed",
    [
        {"username": "nobody"},
        {"password": "wrong"},
        {"database": "missing"},
        {"database": "template0"},  # It is closed to connections.
        {"query": {"sslmode": "require"}},  # The server has no TLS.
    ],
)
async def test_a_database_that_refuses_is_not_ready(
    changed: dict[str, Any], client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = opened(**changed)
    monkeypatch.setattr("app.core.operations.health.database", single)

    response = await health.ready_details()
    with pytest.raises(Unavailable):
        await ReadSession(single).fetch(PreparedRead(select(func.now().label("n"))))
    with pytest.raises(Unavailable):
        async with WriteSession(single) as session:
            await session.autocommit(ADD, name="x")

    assert response.status_code == 503
    assert orjson.loads(response.body)["checks"]["database"].startswith("The database ")
    await single.close()
