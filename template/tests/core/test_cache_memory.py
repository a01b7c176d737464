"""The cache in memory stays within its bytes."""

import pytest

from app.core.cache.memory import ENTRY_BYTES, MemoryCache
from app.settings import get_settings

VALUE = b"v" * 750


@pytest.fixture
def small() -> MemoryCache:
    """Room for ten entries with a key of one character and `VALUE`."""
    cache = MemoryCache()
    room = 10 * (ENTRY_BYTES + 1 + len(VALUE))
    cache.open(get_settings().model_copy(update={"cache_max_bytes": room}))
    return cache


async def test_the_least_recently_used_value_goes_first(small: MemoryCache) -> None:
    for key in "abcdefghij":
        await small.set(key, VALUE, 60)
    await small.get("a")
    await small.set("k", VALUE, 60)

    assert [key for key in "abcdefghijk" if await small.get(key)] == list("acdefghijk")


async def test_a_value_that_is_too_large_is_not_kept_and_displaces_nothing(
    small: MemoryCache,
) -> None:
    await small.set("a", VALUE, 60)
    await small.set("b", VALUE * 100, 60)

    assert await small.get("a") == VALUE
    assert await small.get("b") is None


async def test_replacing_and_deleting_give_their_room_back(small: MemoryCache) -> None:
    for _ in range(100):
        await small.set("a", VALUE, 60)
    await small.delete("a")
    for key in "abcdefghij":
        await small.set(key, VALUE, 60)

    assert all([await small.get(key) for key in "abcdefghij"])
