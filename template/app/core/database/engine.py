"""The engine of this process."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.database.errors import translated
from app.core.settings.database import DatabaseSettings


class Database:
    """One engine and its pool; opened by the lifespan, in the event loop that uses it.

    `reader` shares the pool of `writer` and commits each statement by itself, which saves a read
    the round trips of BEGIN and ROLLBACK.
    """

    def __init__(self) -> None:
        self._engine: AsyncEngine | None = None

    def open(self, settings: DatabaseSettings, *, pool_size: int) -> None:
        """Make the engine; the first statement connects."""
        self._engine = create_async_engine(
            settings.sqlalchemy_url(),
            pool_size=pool_size,
            # Overflow connections are opened and closed all the time under load: 1.5x slower.
            max_overflow=0,
            pool_timeout=settings.database_pool_timeout_s,
            # The connection that was used last is the warmest, and the others may idle out.
            pool_use_lifo=True,
            # So that a new address of the server is found without a restart.
            pool_recycle=1800,
            connect_args={"timeout": settings.database_connect_timeout_s},
        )

    async def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    @property
    def writer(self) -> AsyncEngine:
        if self._engine is None:
            raise RuntimeError(
                "The database is not open: run inside `app.core.lifecycle.resources`."
            )
        return self._engine

    @property
    def reader(self) -> AsyncEngine:
        return self.writer.execution_options(isolation_level="AUTOCOMMIT")

    async def ping(self) -> None:
        """Run a statement.

        Raises:
            Unavailable: when no connection is to be had.
        """
        with translated():
            async with self.reader.connect() as connection:
                await connection.execute(text("SELECT 1"))


database = Database()
