"""Rate limits on the server of the cache: its clock, its keys, and the time without it."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch
from uuid import uuid4

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from redis.asyncio.connection import parse_url

from app.core.cache.store import Cache, cache
from app.core.security import rate_limits
from app.core.security.rate_limits import MAX_COUNTED, TAKE, Counts, Limit
from app.settings import get_settings
from tests.internals import limited
from tests.internals.fault_proxy import FaultProxy, fault_proxy
from tests.internals.limited import Site, statuses
from tests.internals.valkey_server import own_server, trusted

SECOND_US = 10**6


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with own_server() as url:
        yield url


def command(key: str, interval_us: int, capacity_us: int) -> tuple[str | int, ...]:
    return "EVAL", TAKE, 1, key, interval_us, capacity_us


async def sent(*commands: Any) -> list[int]:
    replies = await cache.server.attempt(*commands)
    assert replies is not None
    return replies


@pytest.mark.usefixtures("database")
async def test_a_quota_passes_and_is_refilled_by_the_clock_of_the_server() -> None:
    key = cache.server.name("limit", uuid4().hex)
    first = command(key, SECOND_US, 2 * SECOND_US)

    # One write: the server runs them within microseconds.
    found = await sent(*[first] * 5)
    async with asyncio.timeout(10):
        while (await sent(first))[0] <= 0:
            await asyncio.sleep(0.02)

    assert [used > 0 for used in found] == [True, True, False, False, False]
    assert found[0] == SECOND_US


@pytest.mark.usefixtures("database")
async def test_the_server_decides_as_a_worker_does() -> None:
    counts, key = Counts(), cache.server.name("limit", uuid4().hex)
    # The interval is long: the time between the commands makes no difference.
    interval_us = 10**12
    found = await sent(*[command(key, interval_us, 3 * interval_us)] * 5)
    expected = [counts.take("key", 0, interval_us, 3 * interval_us) for _ in range(5)]

    assert [round(used / interval_us) for used in found] == [
        round(used / interval_us) for used in expected
    ]


@pytest.mark.usefixtures("database")
async def test_the_quota_of_a_longer_window_refuses_nothing() -> None:
    """As after a change of RATE_LIMIT, or of the clock of the server."""
    key = cache.server.name("limit", uuid4().hex)
    day_us, minute_us = 24 * 3600 * SECOND_US, 60 * SECOND_US
    _, used_us = await sent(command(key, day_us, day_us), command(key, SECOND_US, minute_us))

    assert used_us == SECOND_US


@pytest.mark.usefixtures("database")
async def test_a_key_is_in_the_prefix_and_ends_with_its_quota() -> None:
    key = cache.server.name("limit", uuid4().hex)
    _, left_ms = await sent(command(key, SECOND_US, 10 * SECOND_US), ("PTTL", key))

    assert key.startswith(get_settings().cache_prefix)
    assert 0 < left_ms <= 1000


@asynccontextmanager
async def through(proxy: FaultProxy, server: str) -> AsyncIterator[Cache]:
    """Let limits count on the server behind the proxy."""
    store = type(cache)()
    port = parse_url(server)["port"]
    url = SecretStr(server.replace(f":{port}", f":{proxy.port}"))
    settings = {"cache_url": url, "cache_retry_after_s": 0.05}
    await store.open(get_settings().model_copy(update=settings))
    try:
        with patch.object(rate_limits, "cache", store):
            yield store
    finally:
        await store.close()


@pytest.mark.parametrize("fault", ["silent", "down", "refuses"])
async def test_without_the_server_requests_pass_and_a_worker_counts_alone(
    fault: str, server: str, app: FastAPI, database: None
) -> None:
    site = Site(await asyncio.to_thread(limited.make))
    async with fault_proxy(parse_url(server)["port"]) as proxy, through(proxy, server) as store:
        await trusted(store)
        async with site.client() as client:
            shared = await statuses(client, "/five", 4)
            match fault:
                case "silent":
                    proxy.silent = True
                case "down":
                    proxy.down = True
                    proxy.cut()
                case "refuses":
                    proxy.refusal = b"-MISCONF\r\n"
            alone = await statuses(client, "/five", 8)
            proxy.silent = proxy.down = False
            proxy.refusal = b""
            proxy.cut()
            await trusted(store)
            again = await statuses(client, "/five", 3)

    assert shared == [200] * 4
    assert alone == [200] * 5 + [429] * 3
    # The server has its count of before.
    assert again == [200, 429, 429]


async def test_without_the_server_random_callers_cannot_grow_the_memory(
    app: FastAPI, database: None
) -> None:
    limit, store = Limit("10/minute", "everybody"), Cache()
    counts = Counts()
    with patch.object(rate_limits, "cache", store), patch.object(rate_limits, "counts", counts):
        for number in range(100_000):
            await limit._take(f"address:{number}")

    assert len(counts.full_at_us) == MAX_COUNTED
