"""What a database error means to a caller."""

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
# What JSON can carry and a column cannot hold: U+0000, text too long, number out of range.
_UNSTORABLE = ("22021", "22P05", "22001", "22003")
_OF_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


# Classes, because every statement passes through them: `contextmanager` costs three times as much.


class translated:
    """Turns errors that are not the caller's into problems; every other one passes unchanged."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        match error:
            case None:
                return
            case PoolTimeoutError():
                raise Busy("All database connections are in use.") from error
            case DBAPIError():
                _raise_translated(error)
            case TimeoutError():
                raise Unavailable("The database did not answer in time.") from error
            case OSError() | asyncpg.InterfaceError() | asyncpg.PostgresError():
                # asyncpg fails to connect outside SQLAlchemy's wrapping.
                raise Unavailable("The database cannot be reached.") from error


def _raise_translated(error: DBAPIError) -> None:
    if error.connection_invalidated or _sqlstate(error).startswith(_UNAVAILABLE):
        raise Unavailable("The database cannot serve the request now.") from error
    if _sqlstate(error) in _UNSTORABLE:
        raise Unprocessable(
            "A value is too long, or has characters that cannot be stored."
        ) from error


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


class engine_errors:
    """Turns errors of asyncpg into what SQLAlchemy's engine would raise; others pass unchanged."""

    def __init__(
        self, dialect: Dialect, driver: asyncpg.Connection, sql: str | None = None
    ) -> None:
        self._dialect = dialect
        self._driver = driver
        self._sql = sql

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        if not isinstance(error, _OF_DRIVER):
            return
        dbapi: Any = self._dialect.loaded_dbapi
        kinds = dbapi._asyncpg_error_translate
        wrapper = next(kinds[kind] for kind in type(error).__mro__ if kind in kinds)
        original = wrapper(error.args[0], error)
        # Where `violated_constraint` and the like look, as they do after the engine.
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
    """The name of the constraint that an INSERT, UPDATE or DELETE violated."""
    cause = error.orig.__cause__ if error.orig else None
    return getattr(cause, "constraint_name", None)


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
