"""Runs the migrations, on the connection settings of the service."""

import asyncio

from alembic import context
from sqlalchemy import Connection, pool
from sqlalchemy.ext.asyncio import create_async_engine

# Importing the routers imports every model that `--autogenerate` should see.
import app.api  # noqa: F401
from app.core.database import Base
from app.settings import get_settings


def run(connection: Connection) -> None:
    """Migrate within one transaction: a migration that fails leaves nothing behind."""
    context.configure(connection=connection, target_metadata=Base.metadata, compare_type=True)
    with context.begin_transaction():
        context.run_migrations()


async def connect() -> None:
    settings = get_settings()
    engine = create_async_engine(
        settings.sqlalchemy_url(),
        poolclass=pool.NullPool,
        connect_args={"timeout": settings.database_connect_timeout_s},
    )
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(connect())
