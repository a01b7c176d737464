"""Whether the database has the migrations of this release; readiness asks."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from app.core.database.engine import Database
from app.core.database.errors import of_driver

_UNDEFINED_TABLE = "42P01"
_APPLIED = "SELECT version_num FROM alembic_version"
_NAMES = ("revision", "down_revision", "depends_on")


def read_revisions(directory: Path) -> dict[str, set[str]]:
    """Return each of Alembic's revisions below `directory`, with the revisions that it follows.

    Alembic itself would take 10 MB of memory and half a second. Return none if a revision follows
    another one by a label or an abbreviation, which only Alembic can resolve.
    """
    revisions: dict[str, set[str]] = {}
    for path in directory.rglob("*.py"):
        values = dict(_references(path))
        for revision in values.pop("revision", set()):
            revisions[revision] = set().union(*values.values())
    known = set().union(*revisions.values()) <= revisions.keys()
    return revisions if known else {}


def _references(path: Path) -> Iterator[tuple[str, set[str]]]:
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
            if isinstance(target, ast.Name) and target.id in _NAMES:
                value = ast.literal_eval(node.value) or ()
                yield target.id, {value} if isinstance(value, str) else set(value)


def missing(revisions: Mapping[str, set[str]], applied: set[str]) -> set[str]:
    """Return the revisions that are not applied; none if the database is of a newer release.

    `applied` are the last ones of the database, as Alembic writes them down.
    """
    if applied - revisions.keys():
        return set()
    done: set[str] = set()
    following = applied
    while following:
        done |= following
        following = set().union(*(revisions[revision] for revision in following))
    return revisions.keys() - done


async def missing_in(database: Database, revisions: Mapping[str, set[str]]) -> set[str]:
    """Return the revisions that the database has not applied; errors as of a `ReadSession`."""
    # Without revisions, there is no such table.
    statement = text(
        "SELECT version_num FROM alembic_version" if revisions else "SELECT '' LIMIT 0"
    )
    try:
        async with database.gate, database.autocommit_engine.connect() as connection:
            applied = set(await connection.scalars(statement))
    except ProgrammingError as error:
        if getattr(of_driver(error), "sqlstate", None) != _UNDEFINED_TABLE:
            return set()  # The role may not read the table.
        applied = set()
    return missing(revisions, applied)


REVISIONS = read_revisions(Path(__file__).parents[3] / "migrations")
