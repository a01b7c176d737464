"""Migrations: up, down, up again, and nothing that the models have and they lack."""

import os
import subprocess
import sys
from pathlib import Path

from tests.core.plugin import migrated_database

ROOT = Path(__file__).parents[2]

# Raises when it finds a difference between the models and the database.
THERE_AND_BACK = """
from alembic import command
from alembic.config import Config

config = Config(toml_file="pyproject.toml")
command.check(config)
command.downgrade(config, "base")
command.upgrade(config, "heads")
command.check(config)
"""


def test_the_migrations_go_both_ways_and_make_what_the_models_say() -> None:
    with migrated_database() as url:
        subprocess.run(
            [sys.executable, "-c", THERE_AND_BACK],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            check=True,
        )
