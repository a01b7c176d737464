"""The migrations go up, down and up again, and leave what the models say, keys with indexes."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from tests.core.plugin import migrated_database

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60

SQL = Callable[[str], list[asyncpg.Record]]

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

UNINDEXED_FOREIGN_KEYS = """
SELECT format('%s: %s', conrelid::regclass, conname) AS name
FROM pg_constraint
WHERE contype = 'f' AND NOT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = conrelid AND indisvalid AND indpred IS NULL
    AND indnkeyatts >= cardinality(conkey)
    -- Its first columns are those of the key, in any order.
    AND (indkey::int2[])[0:cardinality(conkey) - 1] @> conkey
)
ORDER BY name
"""


def test_the_migrations_go_both_ways_and_make_what_the_models_say() -> None:
    with migrated_database() as url:
        process = subprocess.run(
            [sys.executable, "-c", THERE_AND_BACK],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    assert process.returncode == 0, f"`alembic check`, downgrade or upgrade:\n{process.stderr}"


def test_every_foreign_key_has_an_index() -> None:
    with migrated_database() as url, session(url) as sql:
        found = [row["name"] for row in sql(UNINDEXED_FOREIGN_KEYS)]

    assert found == [], "to delete or update what they refer to reads the whole table: add an Index"


@contextmanager
def session(url: str) -> Iterator[SQL]:
    """Runs SQL in one session, outside of the service and of its event loop."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))
        try:
            yield lambda sql: runner.run(connection.fetch(sql))
        finally:
            runner.run(connection.close())
