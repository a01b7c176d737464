"""The rows that all services read and write: made once by COPY, and found again by the next run."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

# In a table of its own, written last: rows without it are not ours, or only half there.
MARK = "slipstream_benchmark"
# Raised when the rows change, so that kept ones are made again.
VERSION = 3
FIRST_USER = datetime(2025, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)
FIRST_POST = datetime(2025, 4, 1, 0, 0, 0, 654321, tzinfo=UTC)
SENTENCE = "The quick brown fox jumps over the lazy dog, and nobody measures how much time that takes. "
# Of HttpArena's profiles; no migration of a service makes their tables. `crud` changes the prices in `items`, so
# `async-db`, which looks for prices, has a table of its own.
ITEM_TABLES = ("items", "arena_items")
ITEMS = 100_000
CATEGORIES = ("electronics", "office", "tools", "home", "sports")
ITEM_COLUMNS = {
    "id": "integer PRIMARY KEY",
    "name": "text NOT NULL",
    "category": "text NOT NULL",
    "price": "integer NOT NULL",
    "quantity": "integer NOT NULL",
    "active": "boolean NOT NULL",
    "tags": "jsonb NOT NULL",
    "rating_score": "integer NOT NULL",
    "rating_count": "integer NOT NULL",
}


@dataclass(frozen=True)
class Size:
    users: int = 100_000
    posts: int = 1_000_000


class UnusableServer(RuntimeError):
    """A given server cannot be used; the message says why."""


async def state(url: str, size: Size) -> bool | None:
    """Whether the rows are there: True, or None for an empty database, or False for other rows or half of them."""
    connection = await asyncpg.connect(url)
    try:
        tables = await connection.fetchval("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        if not tables:
            return None
        if not await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", MARK):
            return False
        found = tuple(await connection.fetchrow(f"SELECT version, users, posts FROM {MARK}") or ())  # noqa: S608
        return found == (VERSION, size.users, size.posts)
    finally:
        await connection.close()


async def seed(url: str, size: Size) -> None:
    """Fill the migrated, empty tables."""
    connection = await asyncpg.connect(url, command_timeout=600)
    try:
        rng = random.Random(0)  # noqa: S311 - not for secrets
        users = [_identifier(rng) for _ in range(size.users)]
        await connection.copy_records_to_table(
            "users", columns=["id", "email", "name", "created_at"], records=_users(users)
        )
        await connection.copy_records_to_table(
            "posts", columns=["id", "author_id", "title", "body", "created_at"], records=_posts(rng, users, size.posts)
        )
        columns = ", ".join(f"{name} {kind}" for name, kind in ITEM_COLUMNS.items())
        for table in ITEM_TABLES:
            await connection.execute(f"CREATE TABLE {table} ({columns})")
            await connection.copy_records_to_table(table, columns=list(ITEM_COLUMNS), records=_items(rng))
        await connection.execute("CREATE INDEX ON items (category, id)")
        await connection.execute("VACUUM (ANALYZE, FREEZE) users, posts, items, arena_items")
        await connection.execute(
            f"CREATE TABLE {MARK} AS SELECT {VERSION} AS version, {size.users} AS users, {size.posts} AS posts"
        )
    finally:
        await connection.close()


@dataclass(frozen=True)
class Rows:
    """What requests need to know of the rows: users, oldest first, and the last post before the deep page."""

    users: list[UUID]
    depth: int
    last_id: UUID
    last_created_at: datetime


async def look(url: str, *, depth: int) -> Rows:
    """Tidy the tables up after earlier runs and read what requests name."""
    connection = await asyncpg.connect(url, command_timeout=600)
    try:
        await connection.execute("VACUUM (ANALYZE) users, posts, items, arena_items")
        # Warms the buffers as well.
        users = await connection.fetch("SELECT id FROM users ORDER BY created_at, id")
        last = await connection.fetchrow(
            "SELECT id, created_at FROM posts ORDER BY created_at DESC, id DESC OFFSET $1 LIMIT 1", depth - 1
        )
        await connection.fetchval("SELECT sum(length(body)) FROM posts")
        return Rows([UUID(bytes=row["id"].bytes) for row in users], depth, last["id"], last["created_at"])
    finally:
        await connection.close()


async def server_version(url: str) -> str:
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SHOW server_version"))
    finally:
        await connection.close()


def _items(rng: random.Random) -> Iterator[tuple[Any, ...]]:
    for number in range(1, ITEMS + 1):
        category = CATEGORIES[number % len(CATEGORIES)]
        price, quantity, score, count = (rng.randrange(1, limit) for limit in (500, 100, 101, 1_000))
        tags = '["fast", "new"]' if number % 2 else '["fast"]'
        yield number, f"Alpha Widget {number}", category, price, quantity, bool(number % 10), tags, score, count


def _identifier(rng: random.Random) -> UUID:
    return UUID(int=rng.getrandbits(128), version=4)


def _users(identifiers: list[UUID]) -> Iterator[tuple[Any, ...]]:
    for number, identifier in enumerate(identifiers):
        yield identifier, f"user{number}@example.com", f"User {number}", FIRST_USER + timedelta(minutes=number)


def _posts(rng: random.Random, users: list[UUID], number_of_posts: int) -> Iterator[tuple[Any, ...]]:
    for number in range(number_of_posts):
        yield (
            _identifier(rng),
            users[rng.randrange(len(users))],
            f"Post {number}",
            SENTENCE * (1 + number % 4),
            FIRST_POST + timedelta(seconds=20 * number),
        )
