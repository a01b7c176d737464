"""The engine of this process."""

import asyncio
import random
from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import event, text
from sqlalchemy.exc import DisconnectionError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util.concurrency import greenlet_spawn, in_greenlet

from app.core.database.errors import engine_errors, translated
from app.core.database.gate import Gate
from app.core.database.prepared import Prepared, Row
from app.core.database.queries import record
from app.core.database.settings import DatabaseSettings

Part = TypeVar("Part")

SETTLE_TIMEOUT_S = 0.5


class Database:
    """One engine and its pool; opened by the lifespan, in the event loop that uses it.

    `reader` shares the pool of `writer` and commits each statement by itself, which saves a read
    the round trips of BEGIN and ROLLBACK.
    """

    def __init__(self) -> None:
        self._writer: AsyncEngine | None = None
        self._reader: AsyncEngine | None = None
        self._gate: Gate | None = None

    def open(self, settings: DatabaseSettings, *, pool_size: int) -> None:
        """Make the engine; the first statement connects."""
        self._writer = create_async_engine(
            settings.sqlalchemy_url(),
            pool_size=pool_size,
            # Overflow connections are opened and closed all the time under load: 1.5x slower.
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout_s,
            # The connection that was used last is the warmest, and the others may idle out.
            pool_use_lifo=True,
            connect_args={
                "timeout": settings.database_connect_timeout_s,
                # The client's own clock: it also ends a wait for a server that is gone.
                "command_timeout": settings.database_statement_timeout_s,
            },
            # Values are the users' own, and no business of a log.
            hide_parameters=True,
        )
        _replace_dead_and_old(self._writer, lifetime_s=settings.database_connection_lifetime_s)
        event.listen(self._writer.sync_engine, "before_cursor_execute", _record)
        self._reader = self._writer.execution_options(isolation_level="AUTOCOMMIT")
        self._gate = Gate(pool_size, timeout_s=settings.database_pool_timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        if self._writer is not None:
            await self._writer.dispose()
        self._writer = self._reader = self._gate = None

    @property
    def gate(self) -> Gate:
        return _opened(self._gate)

    @property
    def writer(self) -> AsyncEngine:
        return _opened(self._writer)

    @property
    def reader(self) -> AsyncEngine:
        return _opened(self._reader)

    async def fetch(self, statement: Prepared, values: Mapping[str, Any]) -> list[Row]:
        """Run a statement that commits by itself, on a connection that goes back at once."""
        async with self.gate:
            connection = await self.check_out()
            try:
                return await run(statement, connection, values, self.writer)
            except (asyncio.CancelledError, TimeoutError):
                await settle(connection)
                raise
            finally:
                connection.close()

    async def check_out(self) -> PoolProxiedConnection:
        """A connection for who has a slot of the gate; closing it gives it back."""
        engine = self.writer.sync_engine
        try:
            # An open connection is taken without awaiting, which saves a third of the time.
            return engine.pool.connect()
        except MissingGreenlet:
            # The engine, unlike its pool, wraps the errors of connecting.
            return (await greenlet_spawn(engine.connect)).connection

    async def ping(self) -> None:
        """Run a statement.

        Raises:
            Unavailable: when no connection is to be had.
        """
        with translated():
            async with self.gate, self.reader.connect() as connection:
                await connection.execute(text("SELECT 1"))


async def run(
    statement: Prepared,
    connection: PoolProxiedConnection,
    values: Mapping[str, Any],
    engine: AsyncEngine,
) -> list[Row]:
    """Run a prepared statement on the driver's connection; errors are those of the engine.

    Raises:
        DBAPIError: what the database refused.
    """
    driver = connection.driver_connection
    assert driver is not None
    compiled = statement.compiled(engine.dialect)
    record(compiled.sql)
    with engine_errors(engine.dialect, driver, compiled.sql):
        return await compiled.fetch(driver, values)


async def settle(connection: PoolProxiedConnection) -> None:
    """End a statement that was interrupted, before its connection goes back to the pool.

    The driver asks the server to cancel it; but one that was only parsed by then stays so, with its
    locks, until the next one. A server that does not answer loses the connection.
    """
    driver = connection.driver_connection
    assert driver is not None
    try:
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            await driver.execute("SELECT")
    except BaseException as error:
        connection.invalidate(error)
        if not isinstance(error, Exception):
            raise


def _replace_dead_and_old(engine: AsyncEngine, *, lifetime_s: float) -> None:
    """Whoever takes a connection that the server closed, or an old one, gets a new one.

    No statement is spent on finding out: the driver knows when the server hangs up. Lifetimes
    differ by a fifth, so that the connections of a fleet do not all move at once.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def opens(*_: Any) -> None:
        if not in_greenlet():
            raise MissingGreenlet  # which `check_out` awaits; before a coroutine is made in vain

    @event.listens_for(engine.sync_engine, "connect")
    def opened(_: Any, record: ConnectionPoolEntry) -> None:
        record.info["until"] = monotonic() + lifetime_s * random.uniform(0.8, 1)  # noqa: S311

    @event.listens_for(engine.sync_engine, "checkout")
    def taken(dbapi: Any, record: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        if dbapi.driver_connection.is_closed() or monotonic() > record.info["until"]:
            raise DisconnectionError


def _record(_connection: Any, _dbapi: Any, sql: str, *_: Any) -> None:
    record(sql)


def _opened(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("The database needs `async with lifecycle.resources(...)`.")
    return part


database = Database()
