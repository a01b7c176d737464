"""Posts that the database makes itself, by `generate_series`: ten million in minutes."""

from uuid import UUID

import asyncpg

from benchmarks.harness.seeding import FIRST_POST, FIRST_USER, SENTENCE

USERS = 10_000
# More rows at once are faster with the indexes made afterwards.
AT_ONCE = 50_000
SECONDS_APART = 20
TIMEOUT_S = 1200.0
_POSTS = f"""
    INSERT INTO posts (id, author_id, title, body, created_at)
    SELECT uuidv7(), ids[1 + (number * 7919) % {USERS}], 'Post ' || number, '{SENTENCE}',
        $3::timestamptz + number * interval '{SECONDS_APART} seconds'
    FROM generate_series($1::bigint, $2::bigint) AS number, (SELECT array_agg(id) AS ids FROM users) AS every
"""  # noqa: S608 - our own constants


async def make_users(url: str) -> None:
    connection = await asyncpg.connect(url, command_timeout=TIMEOUT_S)
    try:
        await connection.execute(
            "INSERT INTO users (id, email, name, created_at) SELECT gen_random_uuid(), 'user' || number || "
            "'@example.com', 'User ' || number, $2::timestamptz + number * interval '1 minute' "
            "FROM generate_series(0, $1::bigint - 1) AS number",
            USERS,
            FIRST_USER,
        )
        await connection.execute("VACUUM (ANALYZE, FREEZE) users")
    finally:
        await connection.close()


async def user_ids(url: str) -> list[UUID]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT id FROM users ORDER BY created_at")
        return [UUID(bytes=row["id"].bytes) for row in rows]
    finally:
        await connection.close()


async def grow(url: str, rows: int) -> None:
    """Add posts until there are so many; the identifiers and times of the first ones stay."""
    connection = await asyncpg.connect(url, command_timeout=TIMEOUT_S)
    try:
        present = await connection.fetchval("SELECT count(*) FROM posts")
        # The rows are right, and each check of a foreign key would be a query.
        await connection.execute("SET session_replication_role = replica")
        indexes = []
        if rows - present > AT_ONCE:
            indexes = await connection.fetch(
                "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'posts' AND indexname NOT LIKE 'pk_%'"
            )
        for index in indexes:
            await connection.execute(f'DROP INDEX "{index["indexname"]}"')
        await connection.execute(_POSTS, present, rows - 1, FIRST_POST)
        for index in indexes:
            await connection.execute(index["indexdef"])
        await connection.execute("VACUUM (ANALYZE, FREEZE) posts")
    finally:
        await connection.close()
