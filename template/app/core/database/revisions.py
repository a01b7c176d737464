"""Compares the migrations of this release with those of the database, for `/readyz`."""

import ast
from collections.abc import Collection, Iterator
from functools import cache
from logging import getLogger
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from app.core.database.engine import Database
from app.core.database.errors import driver_error

logger = getLogger(__name__)

_UNDEFINED_TABLE = "42P01"
# `migrate` makes both tables, also for a line without revisions.
_APPLIED = """
SELECT version_num FROM alembic_version_core UNION ALL SELECT version_num FROM alembic_version
"""
_NAMES = ("revision", "down_revision", "depends_on")


class Revisions(NamedTuple):
    """Alembic's revisions of this release, and the last ones among them.

    `problem` says why they are unknown.
    """

    known: frozenset[str] = frozenset()
    heads: frozenset[str] = frozenset()
    problem: str | None = None

    def missing(self, applied: Collection[str]) -> frozenset[str]:
        """Return the heads that a database lacks, except those of lines in which it is newer."""
        newer = {line_of(each) for each in set(applied) - self.known}
        lacked = self.heads.difference(applied)
        return frozenset(each for each in lacked if line_of(each) not in newer)


def line_of(revision: str) -> str:
    """Return the line of a revision: `core_idempotency` of `core_idempotency_2`.

    Each answer that adds tables of core has a line of its own, which an update may remove. All
    revisions of the team are one line, with an empty name.
    """
    return revision.rstrip("_0123456789") if revision.startswith("core_") else ""


def read_revisions(*directories: Path) -> Revisions:
    """Read the revisions in `directories` without Alembic, which takes 10 MB and 0.5 s.

    They are unknown if a revision follows a label, or is no literal: only Alembic resolves it.
    """
    known: set[str] = set()
    followed: set[str] = set()
    for path in {path for each in directories for path in each.glob("[!.]*.py")}:
        if path.name == "__init__.py":
            continue
        try:
            names = dict(_assignments(path))
            known |= names.pop("revision")
        except (KeyError, SyntaxError, TypeError, ValueError):
            return Revisions(problem=f"unknown: cannot read {path.name}")
        followed.update(*names.values())
    if labels := followed - known:
        return Revisions(problem=f"unknown: no revision {', '.join(sorted(labels))}")
    return Revisions(frozenset(known), frozenset(known - followed))


def _assignments(path: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield the names in `revision`, `down_revision` and `depends_on` of a file."""
    for node in ast.parse(path.read_bytes()).body:
        match node:
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, value):
                if name in _NAMES and value is not None:
                    names = ast.literal_eval(value) or ()
                    yield name, {names} if isinstance(names, str) else set(names)


async def missing_heads(database: Database, revisions: Revisions) -> frozenset[str]:
    """Return the heads that the database lacks.

    Raises:
        Unavailable: when the database does not answer.
    """
    try:
        async with database.gate, database.autocommit_engine.connect() as connection:
            applied = set(await connection.scalars(text(_APPLIED)))
    except ProgrammingError as error:
        if getattr(driver_error(error), "sqlstate", None) != _UNDEFINED_TABLE:
            return frozenset()  # The role may not read the table.
        applied = set()
    return revisions.missing(applied)


@cache
def of_this_release() -> Revisions:
    """Return the revisions of core and of the team, and log why they are unknown."""
    directory = Path(__file__).parents[3] / "migrations"
    revisions = read_revisions(directory / "core", directory / "versions")
    if revisions.problem:
        logger.warning("The last migrations are %s", revisions.problem)
    return revisions
