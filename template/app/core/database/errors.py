"""One classification of database errors, by SQLSTATE and by the exceptions of the driver.

`Database` turns an error into the problem of its kind where it is raised, in both lanes. An
`IntegrityError` passes, so that a domain can say what the conflict is.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, TypeVar

import asyncpg
from fastapi import FastAPI, Request, Response
from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.http.problems import (
    Conflict,
    Problem,
    Unavailable,
    Unprocessable,
    problem_response,
)

Result = TypeVar("Result")

OF_DRIVER = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)

_ARGUMENT = re.compile(r"query argument \$(\d+)")


class Disconnected(Unavailable):
    """The connection is of no more use; on a new one, a read may be repeated."""


class Kind(Enum):
    """The cause of an error: the problem that clients see, and its sentence."""

    VALUE = Unprocessable, "A value is too long or too large, or cannot be stored."
    CONFLICT = Conflict, "The request contradicts stored data."
    TIMEOUT = Unavailable, "The database did not answer in time."
    UNAVAILABLE = Unavailable, "The database cannot serve the request now."
    # This connection cannot serve, and a new one may.
    CONNECTION = Disconnected, "The connection to the database cannot serve the request."
    PROGRAM = Problem, "An unexpected error of the database."

    def problem(self, field: str | None = None) -> Problem:
        """Return the problem for clients; `field` is the name of the value, if it is known."""
        kind: type[Problem]
        kind, detail = self.value
        return kind(f"Not valid: {field}. {detail}" if field else detail)


# The longest prefix decides.
_BY_SQLSTATE = {
    "08": Kind.CONNECTION,  # The connection is lost.
    "22": Kind.VALUE,  # Out of range, too long, no valid text or JSON.
    "22012": Kind.PROGRAM,  # Division by zero.
    "23": Kind.CONFLICT,
    "23502": Kind.VALUE,  # NULL in a column that does not allow it.
    "23514": Kind.VALUE,  # CHECK.
    "25006": Kind.CONNECTION,  # Read-only: after a failover, the server is no longer the primary.
    "25P": Kind.CONNECTION,  # The server has ended a transaction that took too long.
    "25P02": Kind.PROGRAM,  # The transaction goes on after a statement that failed.
    "26": Kind.CONNECTION,  # Behind a pooler: the prepared statement is on another connection.
    "28": Kind.UNAVAILABLE,  # The role or its password is refused.
    "3D": Kind.UNAVAILABLE,  # The database does not exist.
    "40": Kind.UNAVAILABLE,  # Serialization failure, deadlock.
    "42P05": Kind.CONNECTION,  # As 26.
    "53": Kind.UNAVAILABLE,  # No disk, memory or connection is left.
    "54": Kind.VALUE,  # Text too long for an index, JSON nested too deeply.
    "55P03": Kind.UNAVAILABLE,  # Lock timeout.
    "57": Kind.UNAVAILABLE,  # The query was cancelled.
    "57P": Kind.CONNECTION,  # The server stops or starts.
    "58": Kind.UNAVAILABLE,  # An error of the server's system.
    "XX": Kind.CONNECTION,  # An internal error, such as a type that was dropped in the meantime.
}
# After a migration, the plans and types that a connection remembers are not valid any more.
_OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)


def kind_of(error: BaseException, *, is_closed: bool = False) -> Kind:
    """Return the kind of an error, by that of the driver; `is_closed` tells of its connection."""
    cause = of_driver(error)
    if isinstance(cause, TimeoutError):
        return Kind.TIMEOUT
    if is_closed or isinstance(cause, (OSError, *_OUTDATED)):
        return Kind.CONNECTION
    state = getattr(cause, "sqlstate", None) or ""
    prefixes = (state[:length] for length in (5, 3, 2))
    return next((_BY_SQLSTATE[p] for p in prefixes if p in _BY_SQLSTATE), Kind.PROGRAM)


def of_driver(error: BaseException) -> BaseException:
    """Return the error of the driver behind those of SQLAlchemy and of this module."""
    while not isinstance(error, OF_DRIVER):
        cause = getattr(error, "orig", None) or error.__cause__
        if cause is None:
            break
        error = cause
    return error


async def again_if_disconnected(read: Callable[[], Awaitable[Result]]) -> Result:
    """Run a read, and repeat it once if its connection cannot serve."""
    try:
        return await read()
    except Disconnected:
        return await read()


def is_rollback(error: BaseException) -> bool:
    """Whether a commit that failed with `error` is known to be none: its reply is an error."""
    cause = of_driver(error)
    if isinstance(cause, asyncpg.PostgresError):
        # The driver's own errors have no severity. A server that is lost or stops may have
        # committed before; so may one behind a pooler (40003).
        known = cause.severity_en in (None, "ERROR")
        return known and not (cause.sqlstate or "").startswith(("08", "40003"))
    # The driver raises this without sending anything.
    return isinstance(cause, asyncpg.InterfaceError)


def refused_field(error: BaseException, names: Sequence[str]) -> str | None:
    """Return the name of the argument that the driver has refused, if it is one; else None."""
    argument = _ARGUMENT.search(str(error))
    # An INSERT of several rows repeats the names.
    return names[(int(argument[1]) - 1) % len(names)] if argument and names else None


def engine_error(dialect: Dialect, error: BaseException, sql: str) -> Exception:
    """Return an error of the driver as SQLAlchemy's engine raises it."""
    dbapi: Any = dialect.loaded_dbapi
    kinds = dbapi._asyncpg_error_translate
    wrapper = next(kinds[kind] for kind in type(error).__mro__ if kind in kinds)
    original = wrapper(error.args[0], error)
    original.__cause__ = error
    wrapped: Exception = DBAPIError.instance(
        sql, None, original, dbapi.Error, hide_parameters=True, dialect=dialect
    )
    return wrapped


def violated_constraint(error: IntegrityError) -> str | None:
    """Return the name of the violated constraint, such as `uq_users_email`."""
    return getattr(of_driver(error), "constraint_name", None)


def install(app: FastAPI) -> None:
    """Answer each `IntegrityError` that no domain has handled."""
    app.add_exception_handler(IntegrityError, _violation)


async def _violation(_: Request, error: Exception) -> Response:
    problem = kind_of(error).problem(getattr(of_driver(error), "column_name", None))
    return problem_response(problem.status, problem.detail)
