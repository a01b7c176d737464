"""A Valkey server that tests may break, and the moment from which a cache hears it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.cache.store import Cache
from dev.processes import workspace
from dev.valkey import valkey

RECOVERED_S = 30.0


@contextmanager
def own_server() -> Iterator[str]:
    with (
        workspace() as home,
        valkey(home, variable="TEST_CACHE_URL", maxmemory_policy="allkeys-lfu") as url,
    ):
        yield url


async def trusted(cache: Cache) -> None:
    async with asyncio.timeout(RECOVERED_S):
        while time.monotonic() >= cache.local.trusted_until:
            await asyncio.sleep(0.005)
