"""The connection of a command for operators, and the lines with which it fails."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.database.engine import Database
from app.core.http.problems import Problem
from app.core.settings.database import DatabaseSettings


@asynccontextmanager
async def connection_of(command: str, settings: DatabaseSettings) -> AsyncIterator[AsyncConnection]:
    """Open a connection for one run of `python -m app COMMAND`, outside of any pool.

    Raises:
        SystemExit: when the database fails, with a line that names the reason.
    """
    source = Database()
    source.open(settings, pool_size=1)
    try:
        async with source.autocommit_engine.connect() as connection:
            yield connection
    except Problem as error:
        sys.exit(f"{command}: {error.detail}")
    except ProgrammingError as error:
        sys.exit(f"{command}: {error.orig}; `python -m app migrate` makes the table.")
    finally:
        await source.close()
