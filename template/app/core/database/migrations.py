"""Applies the migrations of core and those of the team, which are two lines of revisions.

Each line has its own table of applied revisions. The commands of Alembic see the team's line alone.
"""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script.revision import ResolutionError
from alembic.util import CommandError

ROOT = Path(__file__).parents[3]


def configuration(line: str) -> Config:
    """Return Alembic's configuration for the line `core` or `versions`, a directory's name."""
    config = Config(toml_file=ROOT / "pyproject.toml", attributes={"line": line, "applied": []})
    if line == "core":
        config.set_main_option("path_separator", "newline")
        config.set_main_option("version_locations", str(ROOT / "migrations" / "core"))
    return config


def upgrade() -> str:
    """Apply the migrations that the database lacks; return a report, or raise CommandError."""
    applied: list[str] = []
    report = "The database is up to date."
    for config in (configuration("core"), configuration("versions")):
        try:
            command.upgrade(config, "heads")
        except CommandError as error:
            # A revision in the database that this release lacks; `/readyz` accepts it as well.
            if not isinstance(error.__cause__, ResolutionError):
                raise
            report = "The database has newer migrations: nothing to do."
        applied += config.attributes["applied"]  # Filled by migrations/env.py.
    return f"Applied: {', '.join(applied)}." if applied else report
