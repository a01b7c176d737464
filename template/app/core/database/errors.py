"""What a database error means to a caller."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.problems import Busy, Unavailable, Unprocessable

Result = TypeVar("Result")

# SQLSTATE: 08 connection exception, 53 insufficient resources, 57 operator intervention (server
# stops or starts, query cancelled), 55P03 lock timeout, 40001 and 40P01 serialization and deadlock.
_UNAVAILABLE = ("08", "53", "57", "55P03", "40001", "40P01")
# What JSON can carry and a column cannot hold: U+0000, text too long, number out of range.
_UNSTORABLE = ("22021", "22P05", "22001", "22003")


@contextmanager
def translated() -> Iterator[None]:
    """Turns errors that are not the caller's into problems; every other one passes unchanged."""
    try:
        yield
    except PoolTimeoutError as error:
        raise Busy("All database connections are in use.") from error
    except DBAPIError as error:
        if error.connection_invalidated or _sqlstate(error).startswith(_UNAVAILABLE):
            raise Unavailable("The database cannot serve the request now.") from error
        if _sqlstate(error) in _UNSTORABLE:
            raise Unprocessable(
                "A value is too long, or has characters that cannot be stored."
            ) from error
        raise
    except TimeoutError as error:
        raise Unavailable("The database did not answer in time.") from error
    except (OSError, asyncpg.InterfaceError, asyncpg.PostgresError) as error:
        # asyncpg fails to connect outside SQLAlchemy's wrapping.
        raise Unavailable("The database cannot be reached.") from error


async def again_if_disconnected(read: Callable[[], Awaitable[Result]]) -> Result:
    """Run `read`, and once more when the server went away; errors as from `translated`."""
    with translated():
        try:
            return await read()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # The server went away meanwhile, and a SELECT can be run again on a new connection.
            return await read()


@contextmanager
def engine_errors(
    dialect: Dialect, driver: asyncpg.Connection, sql: str | None = None
) -> Iterator[None]:
    """Turns errors of asyncpg into what SQLAlchemy's engine would raise; others pass unchanged."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        dbapi: Any = dialect.loaded_dbapi
        kinds = dbapi._asyncpg_error_translate
        wrapper = next(kinds[kind] for kind in type(error).__mro__ if kind in kinds)
        original = wrapper(error.args[0], error)
        # Where `violated_constraint` and the like look, as they do after the engine.
        original.__cause__ = error
        raise DBAPIError.instance(
            sql,
            None,
            original,
            dbapi.Error,
            hide_parameters=True,
            connection_invalidated=driver.is_closed(),
            dialect=dialect,
        ) from original


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that an INSERT, UPDATE or DELETE violated."""
    cause = error.orig.__cause__ if error.orig else None
    return getattr(cause, "constraint_name", None)


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
