"""Rows are made once in an empty database, found again, and never laid over anybody else's."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from dev.postgres import postgres
from dev.processes import workspace

from benchmarks.harness.environment import environment
from benchmarks.harness.seeding import MARK, Size, UnusableServer, state

SIZE = Size(users=2_000, posts=3_000)


@pytest.fixture
def home() -> Iterator[Path]:
    with workspace() as path:
        for name in ("one", "two"):
            (path / name).mkdir(mode=0o711)
        yield path


def execute(url: str, statement: str) -> None:
    async def connect() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(connect())


def test_rows_are_made_once_and_found_again(home: Path) -> None:
    said: list[str] = []
    with postgres(home) as url:
        assert asyncio.run(state(url, SIZE)) is None
        with environment(home / "one", SIZE, 1_000, said.append, database_url=url) as first:
            assert not first.accountable
            assert len(first.rows.users) == SIZE.users
        assert any("2,000 users" in line for line in said)
        assert asyncio.run(state(url, SIZE)) is True

        said.clear()
        with environment(home / "two", SIZE, 1_000, said.append, database_url=url) as second:
            assert second.rows == first.rows
        assert not any("2,000 users" in line for line in said)

        assert asyncio.run(state(url, Size(users=2_000, posts=4_000))) is False
        execute(url, f"DROP TABLE {MARK}")
        assert asyncio.run(state(url, SIZE)) is False


def test_a_database_with_other_tables_is_refused_and_left_alone(home: Path) -> None:
    with postgres(home) as url:
        execute(url, "CREATE TABLE users (id int)")
        with (
            pytest.raises(UnusableServer, match="--database-url names holds other tables"),
            environment(home / "one", SIZE, 1_000, lambda _: None, database_url=url),
        ):
            pass
        execute(url, "INSERT INTO users VALUES (1)")
