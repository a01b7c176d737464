"""Applies the migrations of core and those of the team, which are two lines of revisions.

Each line has its own table of applied revisions. The commands of Alembic see the team's line alone.
"""

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from alembic.script.revision import ResolutionError
from alembic.util import CommandError

from app.core.database.revisions import read_revisions

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
    core, team = configuration("core"), configuration("versions")
    report = "The database is up to date."
    try:
        _upgrade_core(core)
        command.upgrade(team, "heads")
    except CommandError as error:
        # A revision in the database that this release lacks; `/readyz` accepts it as well.
        if not isinstance(error.__cause__, ResolutionError):
            raise
        report = "The database has newer migrations: nothing to do."
    # Filled by migrations/env.py.
    applied = [*core.attributes["applied"], *team.attributes["applied"]]
    return f"Applied: {', '.join(applied)}." if applied else report


def _upgrade_core(config: Config) -> None:
    """Apply the revisions of core as `alembic upgrade heads`, which refuses unknown ones.

    The database may have the revision of an answer that the service no longer has.
    """
    script = ScriptDirectory.from_config(config)
    here = read_revisions(ROOT / "migrations" / "core")

    def steps(applied: tuple[str, ...], _: object) -> Any:
        missing: Any = sorted(here.missing(applied))
        known: Any = sorted(here.known.intersection(applied))
        return script._upgrade_revs(missing, known) if missing else []

    with EnvironmentContext(config, script, fn=steps):
        script.run_env()
