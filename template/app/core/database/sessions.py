"""How requests and jobs reach the database.

A read borrows a connection for one statement, eager loads included, and returns detached objects;
a write holds one connection until it has committed. So a request holds at most one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from logging import getLogger
from typing import Annotated, Any, TypeVar, TypeVarTuple

from fastapi import Depends
from sqlalchemy import CursorResult, Row, ScalarResult, Select, UpdateBase
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.selectable import TypedReturnsRows

from app.core.database.engine import Database, database
from app.core.database.errors import translated
from app.core.database.gate import Slot

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

    async def rows(self, statement: Select[*Ts]) -> Sequence[Row[*Ts]]:
        """Every row, with all its columns."""

        async def fetch(session: AsyncSession) -> Sequence[Row[*Ts]]:
            return (await session.execute(statement)).all()

        return await self._run(fetch)

    async def _run(self, fetch: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        with translated():
            try:
                return await self._run_once(fetch)
            except DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                # The server had closed an idle connection. The pool has dropped all of that age,
                # and a SELECT can be run again.
                return await self._run_once(fetch)

    async def _run_once(self, fetch: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        async with self._database.gate, AsyncSession(self._database.reader) as session:
            return await fetch(session)


def _once(statement: Select[T], result: ScalarResult[T]) -> ScalarResult[T]:
    """Repeated models are one object and come from a JOIN; repeated values are different rows."""
    column = statement.column_descriptions[0]
    return result.unique() if column.get("entity") is column["expr"] else result


class WriteSession(ReadSession):
    """One transaction, reads included; it may stand wherever a `ReadSession` is wanted."""

    def __init__(self, session: AsyncSession, slot: Slot) -> None:
        super().__init__()
        self._session = session
        self._slot = slot
        self._callbacks: list[Callback] = []

    def add(self, instance: object) -> None:
        """Insert `instance` with the next flush."""
        self._session.add(instance)

    async def flush(self) -> None:
        """Send what was added or changed; constraints that are not deferred are checked now."""
        await self._slot.take()
        with translated():
            await self._session.flush()

    async def execute(self, statement: UpdateBase) -> CursorResult[Any]:
        """Run an INSERT, UPDATE or DELETE."""
        await self._slot.take()
        with translated():
            result = await self._session.execute(statement)
        assert isinstance(result, CursorResult)  # as for every UpdateBase
        return result

    async def returning(self, statement: TypedReturnsRows[T]) -> T | None:
        """Run a write of at most one row with RETURNING: its first column, or None."""
        await self._slot.take()
        with translated():
            return (await self._session.scalars(statement)).one_or_none()

    def after_commit(self, callback: Callback) -> None:
        """Call back once the transaction is durable; after a rollback, never.

        The write stands by then, so a callback that fails is logged and does not fail the request.
        """
        self._callbacks.append(callback)

    async def _commit(self) -> None:
        if self._session.new or self._session.dirty or self._session.deleted:
            await self.flush()
        with translated():
            await self._session.commit()

    async def _call_back(self) -> None:
        for callback in self._callbacks:
            try:
                await callback()
            except Exception:
                logger.exception("after commit: %r failed", callback)

    async def _run(self, fetch: Callable[[AsyncSession], Awaitable[Result]]) -> Result:
        await self._slot.take()
        with translated():
            return await fetch(self._session)


@asynccontextmanager
async def write_session(source: Database = database) -> AsyncIterator[WriteSession]:
    """A transaction that commits when the block ends and rolls back when it raises."""
    slot = Slot(source.gate)
    try:
        async with AsyncSession(source.writer, expire_on_commit=False) as session:
            write = WriteSession(session, slot)
            yield write
            await write._commit()
    finally:
        slot.release()
    # The connection is back by now: what is called may need one.
    await write._call_back()


async def _read_session() -> ReadSession:
    return ReadSession()


async def _write_session() -> AsyncIterator[WriteSession]:
    async with write_session() as session:
        yield session


ReadSessionDep = Annotated[ReadSession, Depends(_read_session)]
# Scope "function" ends the dependency, and so commits, before the response is sent: a commit that
# fails is an error to the client, and the client's next request sees the row.
WriteSessionDep = Annotated[WriteSession, Depends(_write_session, scope="function")]
