"""Translates database errors: into problems for clients, and from driver to SQLAlchemy errors."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.http.problems import Busy, Unavailable, Unprocessable

Result = TypeVar("Result")

# SQLSTATE: 08 connection exception, 53 insufficient resources, 57 operator intervention (server
# stops or starts, query cancelled), 55P03 lock timeout, 40001 and 40P01 serialization and deadlock.
_UNAVAILABLE = ("08", "53", "57", "55P03", "40001", "40P01")
# Valid JSON that a column cannot hold: U+0000, text too long, number out of range.
_UNSTORABLE = ("22021", "22P05", "22001", "22003")
_OF_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


# Classes, because every statement uses them: `contextmanager` costs three times as much.
class translated:
    """Turn failures of the database, and values it cannot store, into problems.

    Other errors, such as `IntegrityError`, pass unchanged.
    """

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        match error:
            case PoolTimeoutError():
                raise Busy("All database connections are in use.") from error
            case DBAPIError():
                state = getattr(error.orig, "sqlstate", None) or ""
                if error.connection_invalidated or state.startswith(_UNAVAILABLE):
                    raise Unavailable("The database cannot serve the request now.") from error
                if state in _UNSTORABLE:
                    raise Unprocessable(
                        "A value is too long, or contains characters that cannot be stored."
                    ) from error
            case TimeoutError():
                raise Unavailable("The database did not answer in time.") from error
            case OSError() | asyncpg.InterfaceError() | asyncpg.PostgresError():
                # SQLAlchemy does not wrap the errors of opening a connection.
                raise Unavailable("The database cannot be reached.") from error


async def again_if_disconnected(read: Callable[[], Awaitable[Result]]) -> Result:
    """Run `read`, and repeat it once if the connection was lost; errors as from `translated`."""
    with translated():
        try:
            return await read()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            # A SELECT can safely be repeated on a new connection.
            return await read()


class engine_errors:
    """Turn errors of asyncpg into those of SQLAlchemy's engine; other errors pass unchanged."""

    def __init__(
        self, dialect: Dialect, driver: asyncpg.Connection, sql: str | None = None
    ) -> None:
        self._dialect = dialect
        self._driver = driver
        self._sql = sql

    def __enter__(self) -> None:
        return

    def __exit__(self, _: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, _OF_DRIVER):
            return
        dbapi: Any = self._dialect.loaded_dbapi
        kinds = dbapi._asyncpg_error_translate
        wrapper = next(kinds[kind] for kind in type(error).__mro__ if kind in kinds)
        original = wrapper(error.args[0], error)
        # The engine sets this too; `violated_constraint` reads it.
        original.__cause__ = error
        raise DBAPIError.instance(
            self._sql,
            None,
            original,
            dbapi.Error,
            hide_parameters=True,
            connection_invalidated=self._driver.is_closed(),
            dialect=self._dialect,
        ) from original


def violated_constraint(error: IntegrityError) -> str | None:
    """Return the name of the violated constraint, such as `uq_users_email`."""
    cause = error.orig.__cause__ if error.orig else None
    return getattr(cause, "constraint_name", None)
