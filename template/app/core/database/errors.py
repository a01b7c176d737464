"""One classification of database errors, by SQLSTATE and by the exceptions of the driver.

`Database` turns an error of either lane (ORM, prepared) into the `Problem` of its `Kind`. An
`IntegrityError` stays one, so that a domain can name the conflict.
"""

import re
from collections.abc import Sequence
from enum import Enum
from traceback import walk_tb
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from sqlalchemy import Dialect
from sqlalchemy.exc import DBAPIError, IntegrityError

from app.core.http.problems import Conflict, Problem, Unavailable, Unprocessable, problem_response

DRIVER_ERRORS = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

_ARGUMENT = re.compile(r"query argument \$(\d+)")


class Disconnected(Unavailable):
    """The connection is unusable; a read may be repeated on a new one."""


class Kind(Enum):
    """The kind of a database error; the value is the class of its problem, and the sentence."""

    VALUE = Unprocessable, "A value is too long or too large, or cannot be stored."
    CONFLICT = Conflict, "The request contradicts stored data."
    TIMEOUT = Unavailable, "The database did not answer in time."
    UNAVAILABLE = Unavailable, "The database cannot serve the request now."
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
    "25P02": Kind.PROGRAM,  # A statement followed a failed one in the same transaction.
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
    "XX001": Kind.UNAVAILABLE,  # A table is corrupt.
    "XX002": Kind.UNAVAILABLE,  # An index is corrupt.
}
# After a migration, the plans and types that a connection remembers are not valid any more.
OUTDATED = (asyncpg.InvalidCachedStatementError, asyncpg.OutdatedSchemaCacheError)


def kind_of(error: BaseException, *, is_closed: bool = False) -> Kind:
    """Return the kind of an error; `is_closed` says whether its connection is closed."""
    cause = driver_error(error)
    if isinstance(cause, TimeoutError):
        return Kind.TIMEOUT
    if is_closed or isinstance(cause, (OSError, *OUTDATED)):
        return Kind.CONNECTION
    state = getattr(cause, "sqlstate", None) or ""
    prefixes = (state[:length] for length in (5, 3, 2))
    return next((_BY_SQLSTATE[p] for p in prefixes if p in _BY_SQLSTATE), Kind.PROGRAM)


def driver_error(error: BaseException) -> BaseException:
    """Return the driver's error behind others; if there is none, the innermost error."""
    while not isinstance(error, DRIVER_ERRORS):
        cause = getattr(error, "orig", None) or error.__cause__
        if cause is None:
            break
        error = cause
    return error


def is_rollback(error: BaseException) -> bool:
    """Return whether PostgreSQL has certainly not committed: it answered COMMIT with an error."""
    cause = driver_error(error)
    if isinstance(cause, asyncpg.PostgresError):
        # None: the driver refused before the statement ran. FATAL, PANIC, 08 and 40003 leave the
        # outcome open.
        known = cause.severity_en in (None, "ERROR")
        return known and not (cause.sqlstate or "").startswith(("08", "40003"))
    return isinstance(cause, asyncpg.InterfaceError)  # Before the statement ran, too.


def is_refusal(error: BaseException) -> bool:
    """Return whether a type of SQLAlchemy raised the error, and not a type of the team."""
    *_, (frame, _) = walk_tb(error.__traceback__)
    return str(frame.f_globals["__name__"]).startswith("sqlalchemy.")


def refused_field(error: BaseException, names: Sequence[str]) -> str | None:
    """Return the name of the argument in the driver's message, or None; `names` are of $1, $2..."""
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
    return getattr(driver_error(error), "constraint_name", None)


def install(app: FastAPI) -> None:
    """Answer each `IntegrityError` that no domain has handled."""
    app.add_exception_handler(IntegrityError, _violation)


async def _violation(_: Request, error: Exception) -> Response:
    problem = kind_of(error).problem(getattr(driver_error(error), "column_name", None))
    return problem_response(problem.status, problem.detail)
