"""The engine of this process."""

from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.database.errors import translated
from app.core.database.gate import Gate
from app.core.settings.database import DatabaseSettings

Part = TypeVar("Part")


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
            # So that a new address of the server is found without a restart.
            pool_recycle=1800,
            connect_args={
                "timeout": settings.database_connect_timeout_s,
                # The client's own clock: it also ends a wait for a server that is gone.
                "command_timeout": settings.database_statement_timeout_s,
            },
            # Values are the users' own, and no business of a log.
            hide_parameters=True,
        )
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

    async def ping(self) -> None:
        """Run a statement.

        Raises:
            Unavailable: when no connection is to be had.
        """
        with translated():
            async with self.gate, self.reader.connect() as connection:
                await connection.execute(text("SELECT 1"))


def _opened(part: Part | None) -> Part:
    if part is None:
        raise RuntimeError("The database is not open: run inside `app.core.lifecycle.resources`.")
    return part


database = Database()
