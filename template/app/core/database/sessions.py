"""How requests and jobs reach the database.

A read borrows a connection for one statement, eager loads included, and returns detached objects;
a write holds one connection until it has committed. So a request holds at most one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from logging import getLogger
from typing import Annotated, Any, TypeVar, TypeVarTuple

import asyncpg
from fastapi import Depends
from sqlalchemy import CursorResult, ScalarResult, Select, UpdateBase
from sqlalchemy import Row as EngineRow
from sqlalchemy.exc import DBAPIError, MultipleResultsFound
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.sql.selectable import TypedReturnsRows

from app.core.database.engine import Database, database, run
from app.core.database.errors import engine_errors, translated
from app.core.database.gate import Slot
from app.core.database.prepared import Prepared, PreparedRead, PreparedWrite, Row

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
Result = TypeVar("Result")
Callback = Callable[[], Awaitable[None]]

logger = getLogger(__name__)


class ReadSession:
    """Runs each SELECT on a connection of its own, which it gives back at once.

    Raises (every method): Unavailable, when there is no connection within the limits.
    """

    def __init__(self, source: Database = database) -> None:
        self._database = source

    async def scalars(self, statement: Select[T]) -> Sequence[T]:
        """The first column of every row; a model that a JOIN repeats comes once."""

        async def fetch(session: AsyncSession) -> Sequence[T]:
            return _once(statement, await session.scalars(statement)).all()

        return await self._run(fetch)

    async def scalar(self, statement: Select[T]) -> T | None:
        """The first column of the only row, or None.

        Raises:
            MultipleResultsFound: when there are several rows.
        """

        async def fetch(session: AsyncSession) -> T | None:
            return _once(statement, await session.scalars(statement)).one_or_none()

        return await self._run(fetch)

    async def rows(self, statement: Select[*Ts]) -> Sequence[EngineRow[*Ts]]:
        """Every row, with all its columns."""

        async def fetch(session: AsyncSession) -> Sequence[EngineRow[*Ts]]:
            return (await session.execute(statement)).all()

        return await self._run(fetch)

    async def fetch(self, statement: PreparedRead, /, **values: Any) -> list[Row]:
        """Every row of a prepared SELECT, as dicts; `values` are its parameters."""
        return await self._fetch(statement, values)

    async def fetch_one(self, statement: PreparedRead, /, **values: Any) -> Row | None:
        """The only row of a prepared SELECT, or None.

        Raises:
            MultipleResultsFound: when there are several rows.
        """
        return _only(await self._fetch(statement, values))

    async def _run(self, fetch: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        async def once() -> Result:
            async with self._database.gate, AsyncSession(self._database.reader) as session:
                return await fetch(session)

        return await _again_if_disconnected(once)

    async def _fetch(self, statement: PreparedRead, values: Mapping[str, Any]) -> list[Row]:
        return await _again_if_disconnected(lambda: self._database.fetch(statement, values))


async def _again_if_disconnected(read: Callable[[], Awaitable[Result]]) -> Result:
    with translated():
        try:
            return await read()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server went away meanwhile, and a SELECT can be run again on a new connection.
            return await read()


def _only(rows: list[Row]) -> Row | None:
    if len(rows) > 1:
        raise MultipleResultsFound("Multiple rows were found when one or none was required")
    return rows[0] if rows else None


def _once(statement: Select[T], result: ScalarResult[T]) -> ScalarResult[T]:
    """Repeated models are one object and come from a JOIN; repeated values are different rows."""
    column = statement.column_descriptions[0]
    return result.unique() if column.get("entity") is column["expr"] else result


class WriteSession(ReadSession):
    """One transaction, reads included; it may stand wherever a `ReadSession` is wanted.

    The transaction is the driver's own, so that prepared statements and the ORM share it; it begins
    with the first statement.
    """

    def __init__(self, source: Database, slot: Slot) -> None:
        super().__init__(source)
        self._slot = slot
        self._session = AsyncSession(expire_on_commit=False)
        self._connection: AsyncConnection | None = None
        self._transaction: asyncpg.transaction.Transaction | None = None
        self._committed = False
        self._callbacks: list[Callback] = []

    def add(self, instance: object) -> None:
        """Insert `instance` with the next flush."""
        self._session.add(instance)

    async def flush(self) -> None:
        """Send what was added or changed; constraints that are not deferred are checked now."""
        await self._begin()
        with translated():
            await self._session.flush()

    async def execute(self, statement: UpdateBase) -> CursorResult[Any]:
        """Run an INSERT, UPDATE or DELETE."""
        await self._begin()
        with translated():
            result = await self._session.execute(statement)
        assert isinstance(result, CursorResult)  # as for every UpdateBase
        return result

    async def returning(self, statement: TypedReturnsRows[T]) -> T | None:
        """Run a write of at most one row with RETURNING: its first column, or None."""
        await self._begin()
        with translated():
            return (await self._session.scalars(statement)).one_or_none()

    async def write(self, statement: PreparedWrite, /, **values: Any) -> list[Row]:
        """Run a prepared write in this transaction; what it returns, as dicts."""
        return await self._fetch(statement, values)

    async def autocommit(self, statement: PreparedWrite, /, **values: Any) -> list[Row]:
        """Run a prepared write as a transaction of its own; what it returns, as dicts.

        One round trip instead of three. It stands when this returns, whatever fails afterwards, so
        it is the only statement of its session.

        Raises:
            RuntimeError: when the session has begun a transaction.
        """
        self._refuse_if_committed()
        if self._connection is not None or self._has_changes():
            raise RuntimeError("There is a transaction already: use `write`.")
        with translated():
            rows = await self._database.fetch(statement, values)
        self._committed = True
        return rows

    def after_commit(self, callback: Callback) -> None:
        """Call back once the transaction is durable; after a rollback, never.

        The write stands by then, so a callback that fails is logged and does not fail the request.
        """
        self._callbacks.append(callback)

    async def _begin(self) -> AsyncConnection:
        self._refuse_if_committed()
        await self._slot.take()
        if self._connection is None:
            with translated():
                # SQLAlchemy sends no BEGIN and no COMMIT on a connection of `reader`.
                self._connection = await self._database.reader.connect()
                driver = await _driver(self._connection)
                self._transaction = driver.transaction()
                with engine_errors(self._connection.dialect, driver):
                    await self._transaction.start()
            self._session.sync_session.bind = self._connection.sync_connection
        return self._connection

    def _refuse_if_committed(self) -> None:
        if self._committed:
            raise RuntimeError("The session has committed: `autocommit` is its only statement.")

    def _has_changes(self) -> bool:
        return bool(self._session.new or self._session.dirty or self._session.deleted)

    async def _commit(self) -> None:
        if self._has_changes():
            await self.flush()
        if self._connection is not None and self._transaction is not None:
            driver = await _driver(self._connection)
            with translated(), engine_errors(self._connection.dialect, driver):
                await self._transaction.commit()
            self._committed = True

    async def _close(self) -> None:
        """Roll back, unless it was committed, and give the connection back."""
        await self._session.close()
        if self._connection is None:
            return
        try:
            driver = await _driver(self._connection)
            if driver.is_in_transaction() and self._transaction is not None:
                await self._transaction.rollback()
        except BaseException:
            # Nobody may get a connection that has a transaction open.
            await self._connection.invalidate()
            raise
        finally:
            await self._connection.close()

    async def _call_back(self) -> None:
        for callback in self._callbacks:
            try:
                await callback()
            except Exception:
                logger.exception("after commit: %r failed", callback)

    async def _run(self, fetch: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        await self._begin()
        with translated():
            return await fetch(self._session)

    async def _fetch(self, statement: Prepared, values: Mapping[str, Any]) -> list[Row]:
        connection = await self._begin()
        if self._has_changes():
            await self.flush()
        with translated():
            raw = await connection.get_raw_connection()
            return await run(statement, raw, values, self._database.writer)


async def _driver(connection: AsyncConnection) -> asyncpg.Connection:
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, asyncpg.Connection)
    return driver


@asynccontextmanager
async def write_session(source: Database = database) -> AsyncIterator[WriteSession]:
    """A transaction that commits when the block ends and rolls back when it raises."""
    slot = Slot(source.gate)
    session = WriteSession(source, slot)
    try:
        try:
            yield session
            await session._commit()
        finally:
            try:
                await session._close()
            finally:
                slot.release()
    finally:
        # The connection is back by now: what is called may need one.
        if session._committed:
            await session._call_back()


async def _read_session() -> ReadSession:
    return ReadSession()


async def _write_session() -> AsyncIterator[WriteSession]:
    async with write_session() as session:
        yield session


ReadSessionDep = Annotated[ReadSession, Depends(_read_session)]
# Scope "function" ends the dependency, and so commits, before the response is sent: a commit that
# fails is an error to the client, and the client's next request sees the row.
WriteSessionDep = Annotated[WriteSession, Depends(_write_session, scope="function")]
