"""What a database error means to a caller."""

from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.problems import Busy, Unavailable, Unprocessable

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


def violated_constraint(error: IntegrityError) -> str | None:
    """The name of the constraint that an INSERT, UPDATE or DELETE violated."""
    cause = error.orig.__cause__ if error.orig else None
    return getattr(cause, "constraint_name", None)


def _sqlstate(error: DBAPIError) -> str:
    return getattr(error.orig, "sqlstate", None) or ""
