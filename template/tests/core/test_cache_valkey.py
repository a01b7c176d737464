"""A cache server that is killed, hangs or never was costs milliseconds and no error."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, closing

import pytest
from pydantic import SecretStr
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from app.core.cache.valkey import DRIVER, ValkeyCache
from app.settings import get_settings
from dev.serving import free_port
from dev.valkey import valkey
from dev.workspace import workspace
from tests.core.serving import serving

# Its time limit is 0.1 s; these machines may be busy.
BRIEF_S = 0.5


@pytest.fixture
def server() -> Iterator[str]:
    """A server of this test's own, which it may break."""
    with (
        workspace() as home,
        valkey(home, variable="TEST_CACHE_URL", maxmemory_policy="allkeys-lfu") as url,
    ):
        yield url


@pytest.fixture
def pid(server: str) -> int:
    """The process of `server`."""
    with closing(Redis.from_url(server)) as client:
        process_id: int = client.info("server")["process_id"]
    return process_id


@pytest.fixture
async def cache(server: str) -> AsyncIterator[ValkeyCache]:
    cache = ValkeyCache()
    settings = {"cache_url": SecretStr(server), "cache_retry_after_s": 0.3}
    cache.open(get_settings().model_copy(update=settings))
    await cache.set("key", b"value", 60)
    yield cache
    await cache.close()


async def test_a_hung_server_is_left_alone_and_found_again(cache: ValkeyCache, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert await cache.get("key") is None
        assert not await cache.ping()
        for _ in range(100):
            await cache.set("key", b"lost", 60)
            await cache.delete("key")
        assert time.monotonic() - started < BRIEF_S
    finally:
        os.kill(pid, signal.SIGCONT)
    await asyncio.sleep(0.35)

    assert await cache.get("key") == b"value"


async def test_a_killed_server_is_a_miss(cache: ValkeyCache, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)

    started = time.monotonic()
    assert await cache.get("key") is None
    assert not await cache.set("key", b"lost", 60)
    assert time.monotonic() - started < BRIEF_S


async def test_a_server_that_is_full_is_not_left_alone(cache: ValkeyCache, server: str) -> None:
    client = AsyncRedis.from_url(server, driver_info=DRIVER)
    async with aclosing(client):
        # Only what has a TTL may be evicted, and nothing has.
        await client.config_set("maxmemory-policy", "volatile-lfu")
        await client.persist(f"{get_settings().cache_prefix}:key")
        await client.config_set("maxmemory", "1")

    assert not await cache.set("other", b"refused", 60)
    assert await cache.get("key") == b"value"


async def test_keys_carry_the_prefix(cache: ValkeyCache, server: str) -> None:
    client = AsyncRedis.from_url(server, driver_info=DRIVER)
    async with aclosing(client):
        assert await client.get(f"{get_settings().cache_prefix}:key") == b"value"


def test_the_service_is_ready_without_its_cache() -> None:
    with serving(CACHE_URL=f"redis://127.0.0.1:{free_port()}/0") as client:
        response = client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["cache"] == "unreachable"
