"""The migrations go up, down and up again, and make the tables of the models."""

import asyncio
import os
import subprocess
import sys

import asyncpg
import pytest

from app.core.operations.facts import UNINDEXED_FOREIGN_KEYS
from tests.core.plugin import migrated_database
from tests.core.serving import ROOT

# Raises when it finds a difference between the models and the database.
THERE_AND_BACK = """
import sys

from alembic import command
from app.core.database.migrations import configuration

config = configuration(sys.argv[1])
command.check(config)
command.downgrade(config, "base")
command.upgrade(config, "heads")
command.check(config)
"""


@pytest.mark.parametrize("line", ["core", "versions"])
def test_the_migrations_go_both_ways_and_make_what_the_models_say(line: str) -> None:
    with migrated_database() as url:
        process = subprocess.run(
            [sys.executable, "-c", THERE_AND_BACK, line],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )

    assert process.returncode == 0, f"`alembic check`, downgrade or upgrade:\n{process.stderr}"


def test_every_foreign_key_has_an_index() -> None:
    async def find(url: str) -> list[str]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(UNINDEXED_FOREIGN_KEYS)
        await connection.close()
        return [row["name"] for row in rows]

    with migrated_database() as url:
        found = asyncio.run(find(url))

    assert found == [], "to delete or update what they refer to reads the whole table: add an Index"
