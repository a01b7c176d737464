"""Rows: a page at the front and at depth, by the cursor of the service, and OFFSET beside them.

The statements are those that the service runs: the database tells the last one of each connection.
"""

import asyncio
import json
from collections.abc import Iterable
from statistics import median
from time import perf_counter
from typing import Any, TypedDict
from urllib.request import urlopen

import asyncpg

from benchmarks.growth import seeding
from benchmarks.growth.asking import ask
from benchmarks.growth.servers import Site
from benchmarks.harness.scenarios import Request
from benchmarks.harness.seeding import Rows
from benchmarks.harness.services import Running, by_cursor

FRONT = "/posts?limit=20"
# The part of the rows that stands before the deep page.
DEPTH = 0.9
CLIENTS = 8
EXECUTIONS = 5
# A statement that takes longer is run once.
SLOW_MS = 500.0


class Statement(TypedDict):
    """Milliseconds of execution (median), and the pages of 8 kB that it reads, in memory or not."""

    ms: float
    buffers: int


class RowsPoint(TypedDict):
    """`service_us` and `database_us` are CPU time of a request, `bytes` the table with its indexes."""

    rows: int
    seconds: float
    bytes: int
    statements: dict[str, Statement]
    service_us: dict[str, float]
    database_us: dict[str, float]


def measure(site: Site, sizes: Iterable[int], seconds: float) -> list[RowsPoint]:
    """Measure the service at each number of rows, from few to many."""
    with site.service(workers=1, MAX_QUEUE_MS="0") as service:
        return [_point(site, service, rows, seconds) for rows in sizes]


def _point(site: Site, service: Running, rows: int, seconds: float) -> RowsPoint:
    began = perf_counter()
    asyncio.run(seeding.grow(site.url, rows))
    took = perf_counter() - began
    deep = by_cursor(asyncio.run(_before_deep_page(site.url, rows)), site.directory("none"))
    statements = asyncio.run(_statements(site.url, service, deep, rows))
    asked = {
        name: ask(service, site.servers, [Request("GET", path)], clients=CLIENTS, seconds=seconds)
        for name, path in (("front", FRONT), ("cursor", deep))
    }
    site.say(f"{rows:,} rows ({took:.0f} s to make): {_text(statements)}")
    return {
        "rows": rows,
        "seconds": took,
        "bytes": asyncio.run(_size(site.url)),
        "statements": statements,
        "service_us": {name: each["service_us"] for name, each in asked.items()},
        "database_us": {name: each["database_us"] for name, each in asked.items()},
    }


def _text(statements: dict[str, Statement]) -> str:
    return ", ".join(f"{name} {each['ms']:.2f} ms, {each['buffers']:,} buffers" for name, each in statements.items())


async def _before_deep_page(url: str, rows: int) -> Rows:
    connection = await asyncpg.connect(url, command_timeout=seeding.TIMEOUT_S)
    try:
        depth = int(rows * DEPTH)
        last = await connection.fetchrow(
            "SELECT id, created_at FROM posts ORDER BY created_at LIMIT 1 OFFSET $1", rows - depth
        )
        return Rows([], depth, last["id"], last["created_at"])
    finally:
        await connection.close()


async def _size(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return int(await connection.fetchval("SELECT pg_total_relation_size('posts')"))
    finally:
        await connection.close()


async def _statements(url: str, service: Running, deep: str, rows: int) -> dict[str, Statement]:
    """Run the statements of both pages, and the first one with OFFSET."""
    connection = await asyncpg.connect(url, command_timeout=seeding.TIMEOUT_S, statement_cache_size=0)
    try:
        await connection.execute("SET jit = off")
        front = await _statement_of(connection, service, FRONT)
        by_keyset = await _statement_of(connection, service, deep)
        before = await _before_deep_page(url, rows)
        values = {"timestamptz": before.last_created_at, "uuid": before.last_id}
        prepared = await connection.prepare(by_keyset)
        parameters = [values[each.name] for each in prepared.get_parameters()]
        return {
            "front": await _run(connection, front),
            "cursor": await _run(connection, by_keyset, *parameters),
            "offset": await _run(connection, f"{front} OFFSET {int(rows * DEPTH)}"),
        }
    finally:
        await connection.close()


async def _statement_of(connection: Any, service: Running, path: str) -> str:
    """Return the statement that the service sent for this path, which was its last one."""
    with await asyncio.to_thread(urlopen, f"http://127.0.0.1:{service.port}{path}", timeout=60) as response:
        found = len(json.load(response)["items"])
    if not found:
        raise ValueError(f"{path} has no rows")
    return str(
        await connection.fetchval(
            "SELECT query FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND query ILIKE '%from posts%' "
            "ORDER BY query_start DESC LIMIT 1"
        )
    )


async def _run(connection: Any, statement: str, *parameters: Any) -> Statement:
    times: list[float] = []
    # The first one reads what is not in memory yet.
    for number in range(EXECUTIONS + 1):
        # The clock of each node would take longer than the rows.
        explained = await connection.fetchval(
            f"EXPLAIN (ANALYZE, TIMING OFF, BUFFERS, FORMAT JSON) {statement}", *parameters
        )
        ((plan,)) = json.loads(explained)
        if number or plan["Execution Time"] > SLOW_MS:
            times.append(plan["Execution Time"])
        if plan["Execution Time"] > SLOW_MS:
            break
    top = plan["Plan"]
    return {"ms": median(times), "buffers": top["Shared Hit Blocks"] + top["Shared Read Blocks"]}
