"""The engine, its connection pool and the gate in front of the pool: one set for each process."""

import asyncio
import json
import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import Any, TypeGuard, TypeVar
from weakref import WeakSet

import asyncpg
from pydantic_core import from_json
from sqlalchemy import Connection, Dialect, ExceptionContext, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError, MissingGreenlet
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection
from sqlalchemy.util.concurrency import await_, greenlet_spawn, in_greenlet

from app.core.database.address import asyncpg_url, read_again
from app.core.database.errors import (
    DRIVER_ERRORS,
    OUTDATED,
    Kind,
    driver_error,
    engine_error,
    is_refusal,
    kind_of,
    refused_field,
)
from app.core.database.gate import Gate
from app.core.database.prepared import Prepared, Row
from app.core.http.deadlines import exceeded, remaining_s
from app.core.http.problems import Problem, Unavailable
from app.core.settings.database import DatabaseSettings
from app.core.telemetry.activity import add_statement

Part = TypeVar("Part")
Run = Callable[[], Awaitable[list[Row]]]
# Runs a statement, with others before and after it on the same connection; returns its rows.
Around = Callable[[Run, PoolProxiedConnection], Awaitable[list[Row]]]

SETTLE_TIMEOUT_S = 0.5
# If an error comes again within this time after a reconnect, the server is its cause.
RECURRENCE_S = 1.0
# The gates of all pools of this process.
gates: WeakSet[Gate] = WeakSet()


class Database:
    """One engine with its pool and gate; the lifespan opens it, in the event loop that uses it.

    `autocommit_engine` shares the pool of `engine`. SQLAlchemy sends no BEGIN and no ROLLBACK
    through it, which saves each read two round trips.
    """

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None
        self._autocommit_engine: AsyncEngine | None = None
        self._gate: Gate | None = None
        # The variable of the address, and the options of a newer address in its file.
        self._variable = ""
        self._newer: dict[str, Any] = {}
        self._lifetime_s = self._statement_timeout_s = math.inf
        # Connections of an earlier generation are replaced on checkout.
        self._generation = 0
        self._replaced_s = -math.inf

    def open(
        self, settings: DatabaseSettings, *, pool_size: int, variable: str = "DATABASE_URL"
    ) -> None:
        """Create the engine; the first statement opens the first connection.

        `variable` is the name of the address: if `<variable>_FILE` names a file, the address is
        read from it again when the server refuses the role or the password.
        """
        self._engine = create_async_engine(
            asyncpg_url(settings.database_url),
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
            json_deserializer=_json_value,
        )
        self._variable, self._newer = variable, {}
        self._lifetime_s = settings.database_connection_lifetime_s
        self._statement_timeout_s = settings.database_statement_timeout_s
        self._listen(self._engine)
        self._autocommit_engine = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._gate = Gate(pool_size, timeout_s=settings.database_pool_timeout_s)
        gates.add(self._gate)

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
        self, statement: Prepared, values: Mapping[str, Any], around: Around | None = None
    ) -> list[Row]:
        """Run a prepared statement as a transaction of its own; `around` calls it, if given."""
        async with self.gate:
            connection = await self._check_out()
            try:
                if around is None:
                    return await self.run(statement, connection, values)
                remaining_s()  # Raises before anything is sent.
                run = partial(self.run, statement, connection, values, commits=True)
                return await around(run, connection)
            except BaseException as error:
                if _is_cut(error):
                    await settle(connection)
                raise
            finally:
                connection.close()

    async def _check_out(self) -> PoolProxiedConnection:
        """Take a connection; the caller holds a slot of the gate, and calls `close()` later."""
        engine = self.engine.sync_engine
        try:
            # An open connection needs no greenlet, which saves a third of the time.
            return engine.pool.connect()
        except MissingGreenlet:
            return (await greenlet_spawn(engine.connect)).connection

    async def run(
        self,
        statement: Prepared,
        connection: PoolProxiedConnection,
        values: Mapping[str, Any],
        *,
        commits: bool = False,
    ) -> list[Row]:
        """Run a prepared statement; raises a `Problem`, or SQLAlchemy's error.

        The time limit of the request does not end one that `commits`, whose outcome would be
        unknown.
        """
        driver: Any = connection.driver_connection
        limit_s = self._statement_timeout_s
        if not commits:
            limit_s = min(limit_s, remaining_s())
        add_statement(statement.sql)
        try:
            return await statement.fetch(driver, values, limit_s)
        except DRIVER_ERRORS as error:
            problem = self._problem(error, connection, driver.is_closed(), statement.placeholders)
            raise problem or engine_error(self.engine.dialect, error, statement.sql) from error

    async def command(self, connection: PoolProxiedConnection, sql: str) -> str:
        """Run BEGIN or COMMIT; return its tag: ROLLBACK for the COMMIT of a failed transaction."""
        driver: Any = connection.driver_connection
        try:
            tag: str = await driver.execute(sql, timeout=self._statement_timeout_s)
        except DRIVER_ERRORS as error:
            problem = self._problem(error, connection, driver.is_closed())
            raise problem or engine_error(self.engine.dialect, error, sql) from error
        return tag

    def _problem(
        self,
        error: BaseException,
        connection: PoolProxiedConnection | Connection | None,
        is_closed: bool,
        names: Sequence[str] = (),
    ) -> Problem | None:
        """Return the problem of an error; None for those that are raised as SQLAlchemy's."""
        kind = kind_of(error, is_closed=is_closed)
        if kind is Kind.TIMEOUT and (late := exceeded()):
            return late
        violates = isinstance(driver_error(error), asyncpg.IntegrityConstraintViolationError)
        if violates or kind is Kind.PROGRAM:
            return None
        if kind is Kind.CONNECTION and not is_closed and connection is not None:
            kind = self._replace(connection.info, driver_error(error))
        return kind.problem(refused_field(error, names))

    def _replace(self, info: dict[Any, Any], error: BaseException) -> Kind:
        """Have all connections replaced, because they lead to the same server.

        An internal error concerns its own connection only.
        """
        if info.get("generation") == self._generation:
            now_s = monotonic()
            is_own = isinstance(error, asyncpg.InternalServerError)
            replaced_s = info["opened_s"] if is_own else self._replaced_s
            # Several migrations may follow each other; a reconnect helps after each.
            if now_s < replaced_s + RECURRENCE_S and not isinstance(error, OUTDATED):
                return Kind.UNAVAILABLE
            if is_own:
                info["generation"] = None
            else:
                self._generation += 1
                self._replaced_s = now_s
        return Kind.CONNECTION

    def _listen(self, engine: AsyncEngine) -> None:
        """Register listeners: connect, replace on checkout, count statements, translate errors.

        Closed, expired and outdated connections are replaced. This needs no round trip: the driver
        notices when the server closes a connection.
        """
        event.listen(engine.sync_engine, "do_connect", self._connect)

        @event.listens_for(engine.sync_engine, "connect")
        def note(_: Any, entry: ConnectionPoolEntry) -> None:
            entry.info["generation"] = self._generation
            entry.info["opened_s"] = monotonic()
            # Neither a pool nor a fleet may reconnect all at once.
            lifetime_s = self._lifetime_s * random.uniform(0.8, 1)  # noqa: S311
            entry.info["expires_s"] = monotonic() + lifetime_s

        @event.listens_for(engine.sync_engine, "checkout")
        def check(dbapi: Any, entry: ConnectionPoolEntry, _: PoolProxiedConnection) -> None:
            if (
                dbapi.driver_connection.is_closed()
                or entry.info["generation"] != self._generation
                or monotonic() > entry.info["expires_s"]
            ):
                raise DisconnectionError  # The pool connects anew.

        @event.listens_for(engine.sync_engine, "before_cursor_execute")
        def collect(connection: Connection, _dbapi: Any, sql: str, *_: Any) -> None:
            limit_s = min(remaining_s(), self._statement_timeout_s)
            driver: Any = connection.connection.driver_connection
            # SQLAlchemy passes no time limit to the driver, which reads it here.
            if driver._config.command_timeout != limit_s:
                driver._config = driver._config._replace(command_timeout=limit_s)
            add_statement(sql)

        @event.listens_for(engine.sync_engine, "handle_error")
        def explain(context: ExceptionContext) -> Problem | None:
            error = context.original_exception
            execution = context.execution_context
            if execution is not None and _is_autocommit(context.connection) and _is_cut(error):
                context.is_disconnect = not await_(_keep(context.connection.connection))
            if execution is None and isinstance(error, (LookupError, ValueError)):
                # An argument could not be converted.
                return Kind.VALUE.problem() if is_refusal(error) else None
            if not isinstance(driver_error(error), DRIVER_ERRORS):
                return None
            compiled: Any = execution.compiled if execution else None
            # The names of $1, $2 and so on.
            names = [
                getattr(compiled.binds.get(name), "_orig_key", name)
                for name in getattr(compiled, "positiontup", None) or ()
            ]
            return self._problem(error, context.connection, context.is_disconnect, names)

    def _connect(
        self, dialect: Dialect, _: object, args: list[Any], options: dict[str, Any]
    ) -> DBAPIConnection:
        """Connect. If the server refuses the role or the password, try the address in the file."""
        # `_check_out` catches this. asyncpg would raise it later, with a coroutine unawaited.
        if not in_greenlet():
            raise MissingGreenlet
        options |= self._newer
        options = options | {"timeout": min(options["timeout"], remaining_s())}
        try:
            try:
                return dialect.connect(*args, **options)
            except dialect.loaded_dbapi.Error as error:
                if not (getattr(error, "sqlstate", None) or "").startswith("28"):
                    raise
                url = await_(asyncio.to_thread(read_again, self._variable))
                current = dict(dialect.create_connect_args(url)[1]) if url else {}
                if current.items() <= options.items():
                    raise
            self._newer = current
            return dialect.connect(*args, **options | current)
        # The resolver raises UnicodeError for names that cannot be.
        except (dialect.loaded_dbapi.Error, OSError, UnicodeError) as error:
            if late := exceeded():
                raise late from error
            state = getattr(error, "sqlstate", None)
            detail = f"refuses the connection ({state})" if state else "cannot be reached"
            raise Unavailable(f"The database {detail}.") from error


def _is_cut(error: BaseException) -> bool:
    """Return whether a time limit or a cancellation ended a statement before its result."""
    return isinstance(driver_error(error), (asyncio.CancelledError, TimeoutError))


def _is_autocommit(connection: Connection | None) -> TypeGuard[Connection]:
    """Return whether SQLAlchemy sends no BEGIN: one that is cut may have begun a transaction."""
    if connection is None:
        return False
    return connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"


async def _keep(connection: PoolProxiedConnection) -> bool:
    """Settle the connection of a cut statement; return whether it is still open.

    SQLAlchemy closes each of them, so clients with short time limits would make the service
    reconnect all the time. A transaction settles when it is rolled back.
    """
    driver = connection.driver_connection
    if driver is None or driver.is_closed():
        return False
    if not driver.is_in_transaction():
        await settle(connection)
    return not driver.is_closed()


async def settle(connection: PoolProxiedConnection, sql: str = "SELECT") -> None:
    """Run `sql`, so that the connection can return to the pool; otherwise close the connection.

    It is closed if `sql` fails or takes over `SETTLE_TIMEOUT_S`. A cancelled statement can keep its
    locks until the next statement, so an empty `SELECT` is enough.
    """
    driver = connection.driver_connection
    if driver is None:
        return  # It is closed already.
    try:
        # The limit of the driver itself may be what is left of a request's.
        await driver.execute(sql, timeout=SETTLE_TIMEOUT_S)
    except BaseException as error:
        connection.invalidate(error)
        if not isinstance(error, Exception):
            raise


def _opened(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("The database is not open: use `async with lifecycle.resources(...)`.")
    return part


database = Database()


def _json_value(text: str) -> Any:
    """Return the value of a JSON column, in a third of the time of `json.loads`."""
    try:
        return from_json(text)
    except ValueError:
        # It is nested more than 200 deep.
        return json.loads(text)
