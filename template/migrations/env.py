"""Run the migrations with the settings of the service, one process at a time.

Alembic's commands compare and migrate the models of the team; `python -m app migrate` also the
tables of core, with a version table of their own.
"""

import asyncio
import math
import sys
from time import monotonic
from typing import Any

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, event, func, pool, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

# They import every model and every table of core, for `--autogenerate`.
import app.api
import app.core.application  # noqa: F401
from app.core.database.address import asyncpg_url
from app.core.database.models import Base, core_metadata
from app.settings import get_settings

# The key of the advisory lock of this database: the letters of "alembic".
LOCK = int.from_bytes(b"alembic", "big")
LOCK_TIMEOUT = "55P03"

# For `app.core.database.migrations`.
applied = context.config.attributes.setdefault("applied", [])
CORE = context.config.attributes.get("line") == "core"
TABLES_OF_CORE = {"alembic_version_core", *core_metadata.tables}
OPTIONS: Any = {
    "target_metadata": core_metadata if CORE else Base.metadata,
    "version_table": "alembic_version_core" if CORE else "alembic_version",
    "transaction_per_migration": True,
    "on_version_apply": lambda *, step, **_: applied.append(step.up_revision_id),
}


def run(connection: Connection) -> None:
    """Run each migration in a transaction: it may use an enum's value that the one before added."""
    event.listen(connection, "begin", limit_waits)
    context.configure(
        connection=connection, include_schemas=True, include_name=is_compared, **OPTIONS
    )
    with context.begin_transaction():
        context.run_migrations()
    # Also the version table of a line without revisions.
    connection.commit()


def is_compared(name: str | None, kind: str, parents: Any) -> bool:
    """Compare the default schema, which is None, those of the models, and tables of the line."""
    if kind == "schema":
        return name in {None, *(t.schema for t in Base.metadata.tables.values())}
    return (parents["schema_qualified_table_name"] in TABLES_OF_CORE) == CORE


def limit_waits(connection: Connection) -> None:
    """Limit the wait of each statement for a lock, because later statements queue behind it.

    An autocommit block has no limit: CREATE INDEX CONCURRENTLY waits for all earlier transactions,
    and blocks none.
    """
    if connection.get_execution_options().get("isolation_level") != "AUTOCOMMIT":
        milliseconds = math.ceil(get_settings().migration_lock_timeout_s * 1000)
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")


async def wait_for_turn(turn: AsyncConnection) -> None:
    """Take the lock of migrations until the transaction of `turn` ends.

    `turn` is another connection than that of the migrations, because an autocommit block commits
    theirs. It polls, because CREATE INDEX CONCURRENTLY waits for every running query.
    """
    timeout_s = get_settings().migration_wait_timeout_s
    deadline = None
    while not await turn.scalar(select(func.pg_try_advisory_xact_lock(LOCK))):
        await turn.rollback()
        if deadline is None:
            deadline = monotonic() + timeout_s
            print(f"Another migration runs. Waiting up to {timeout_s} s.", file=sys.stderr)
        if monotonic() > deadline:
            raise CommandError(
                f"Another migration still runs after {timeout_s} s, so this one did not start. Run "
                "it again later, or raise MIGRATION_WAIT_TIMEOUT_S. In pg_locks, the other one has "
                f"the locktype 'advisory' and the objid {LOCK & 0xFFFFFFFF}."
            )
        await asyncio.sleep(0.1)
    # The connection is idle while the migrations run. As the last statement, it also releases the
    # snapshot of the SELECT above, for which CREATE INDEX CONCURRENTLY would wait.
    await turn.execute(text("SET LOCAL idle_in_transaction_session_timeout = 0"))


async def connect() -> None:
    settings = get_settings()
    engine = create_async_engine(
        asyncpg_url(settings.database_url),
        poolclass=pool.NullPool,
        connect_args={"timeout": settings.database_connect_timeout_s},
    )
    try:
        await (await engine.connect()).close()
    except (OSError, DBAPIError) as error:
        reason = getattr(error, "orig", error)
        raise CommandError(f"DATABASE_URL: cannot connect: {reason}") from error
    async with engine.connect() as turn:
        await wait_for_turn(turn)
        async with engine.connect() as connection:
            try:
                await connection.run_sync(run)
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) != LOCK_TIMEOUT:
                    raise
                raise CommandError(
                    f"A migration waited {settings.migration_lock_timeout_s} s for a lock that "
                    "another transaction holds, and was rolled back. Those before it are kept. "
                    "Run it again when that transaction has ended (pg_stat_activity.xact_start "
                    "shows its age), or raise MIGRATION_LOCK_TIMEOUT_S. The statement that waited: "
                    f"{error.statement}"
                ) from error


if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()
else:
    asyncio.run(connect())
