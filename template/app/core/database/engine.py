"""The engine, its connection pool and the gate in front of the pool: one set for each process."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
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
from app.core.database.queries import collect_statement
from app.core.database.settings import DatabaseSettings

Part = TypeVar("Part")
# Runs with the driver's connection, when the statement has committed.
AfterCommit = Callable[[Any], Awaitable[None]]

SETTLE_TIMEOUT_S = 0.5


class Database:
    """One engine with its pool and gate; the lifespan opens it, in the event loop that uses it.

    `autocommit_engine` shares the pool of `engine`. SQLAlchemy sends no BEGIN and no ROLLBACK
    through it, which saves each read two round trips.
    """

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        self._autocommit_engine: AsyncEngine | None = None
        self._gate: Gate | None = None

    def open(self, settings: DatabaseSettings, *, pool_size: int) -> None:
        """Create the engine; the first statement opens the first connection."""
        self._engine = create_async_engine(
            settings.sqlalchemy_url(),
            pool_size=pool_size,
            # Under load, overflow connections are opened and closed all the time: 1.5x slower.
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout_s,
            # The connection used last has the warmest caches; the others may idle out.
            pool_use_lifo=True,
            connect_args={
                "timeout": settings.database_connect_timeout_s,
                # Measured by the client, so it also ends a wait for a server that is gone.
                "command_timeout": settings.database_statement_timeout_s,
            },
            # Values may be personal data, which must not reach the log.
            hide_parameters=True,
        )
        _listen(self._engine, lifetime_s=settings.database_connection_lifetime_s)
        self._autocommit_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._gate = Gate(pool_size, timeout_s=settings.database_pool_timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            await self._engine.dispose()
        self._engine = self._autocommit_engine = self._gate = None

    @property
    def gate(self) -> Gate:
        return _opened(self._gate)

    @property
    def engine(self) -> AsyncEngine:
        return _opened(self._engine)

    @property
    def autocommit_engine(self) -> AsyncEngine:
        return _opened(self._autocommit_engine)

    async def fetch(
        self, statement: Prepared, values: Mapping[str, Any], then: AfterCommit | None = None
    ) -> list[Row]:
        """Run a statement as a transaction of its own, and `then` on the same connection."""
        async with self.gate:
            connection = await self._check_out()
            try:
                rows = await run(statement, connection, values, self.engine)
                if then is not None:
                    await then(connection.driver_connection)
                return rows
            except (asyncio.CancelledError, TimeoutError):
                await settle(connection)
                raise
            finally:
                connection.close()

    async def _check_out(self) -> PoolProxiedConnection:
        """Take a connection from the pool, with a slot of the gate; `close()` returns it."""
        engine = self.engine.sync_engine
        try:
            # An open connection needs no greenlet, which saves a third of the time.
            return engine.pool.connect()
        except MissingGreenlet:
            # The pool has to open one. The engine, unlike its pool, wraps the errors of that.
            return (await greenlet_spawn(engine.connect)).connection

    async def ping(self) -> None:
        """Run `SELECT 1`, or raise Unavailable when the database does not answer."""
        with translated():
            async with self.gate, self.autocommit_engine.connect() as connection:
                await connection.execute(text("SELECT 1"))


async def run(
    statement: Prepared,
    connection: PoolProxiedConnection,
    values: Mapping[str, Any],
    engine: AsyncEngine,
) -> list[Row]:
    """Run a prepared statement on the driver's connection; errors are those of the engine."""
    driver = connection.driver_connection
    assert driver is not None
    collect_statement(statement.sql)
    with engine_errors(engine.dialect, driver, statement.sql):
        return await statement.fetch(driver, values)


async def settle(connection: PoolProxiedConnection) -> None:
    """Clean up after an interrupted statement, before its connection returns to the pool.

    The driver asks the server to cancel the statement. If the server had only parsed it, its locks
    stay until the next statement, so send an empty one. If the server does not answer that in
    time, close the connection.
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


def _listen(engine: AsyncEngine, *, lifetime_s: float) -> None:
    """Collect the statements; on checkout, replace closed or expired connections.

    This needs no round trip: the driver notices when the server closes a connection. Lifetimes
    vary by up to a fifth, so that the connections of a fleet are not all replaced at once.
    """

    @event.listens_for(engine.sync_engine, "do_connect")
    def before_connect(*_: Any) -> None:
        # `_check_out` catches this. asyncpg would raise it too, but leave a coroutine unawaited.
        if not in_greenlet():
            raise MissingGreenlet

    @event.listens_for(engine.sync_engine, "connect")
    def set_expiry(_: Any, entry: ConnectionPoolEntry) -> None:
        entry.info["expires_s"] = monotonic() + lifetime_s * random.uniform(0.8, 1)  # noqa: S311

    @event.listens_for(engine.sync_engine, "checkout")
    def check(dbapi: Any, entry: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
        if dbapi.driver_connection.is_closed() or monotonic() > entry.info["expires_s"]:
            raise DisconnectionError  # The pool connects anew.

    @event.listens_for(engine.sync_engine, "before_cursor_execute")
    def collect(_connection: Any, _dbapi: Any, sql: str, *_: Any) -> None:
        collect_statement(sql)


def _opened(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("The database is not open: use `async with lifecycle.resources(...)`.")
    return part


database = Database()
