"""A cache in this process: the fastest there is, and not shared.

Each worker has its own, so what another worker writes shows here after at most the TTL.
"""

import time
from collections import OrderedDict

from app.core.settings.cache import CacheSettings

# Of the entry, its key and its place in the dictionary, in CPython 3.11 to 3.14.
ENTRY_BYTES = 250


class MemoryCache:
    """Least recently used values go first once `cache_max_bytes` is reached."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[float, bytes]] = OrderedDict()
        self._bytes = 0
        self._max_bytes = 0
        self.ttl_s = 0.0

    def open(self, settings: CacheSettings) -> None:
        """Begin to keep values."""
        self._max_bytes = settings.cache_max_bytes
        self.ttl_s = settings.cache_ttl_s

    async def close(self) -> None:
        """Forget everything."""
        self._entries.clear()
        self._bytes = 0

    async def get(self, key: str) -> bytes | None:
        """The value, unless it is unknown or too old."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires_at, value = entry
        if time.monotonic() >= expires_at:
            await self.delete(key)
            return None
        self._entries.move_to_end(key)
        return value

    async def set(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep the value for `ttl_s` seconds, unless it is larger than the whole cache."""
        await self.delete(key)
        size = _size(key, value)
        if size > self._max_bytes:
            return False
        self._entries[key] = (time.monotonic() + ttl_s, value)
        self._bytes += size
        while self._bytes > self._max_bytes:
            oldest, (_, dropped) = self._entries.popitem(last=False)
            self._bytes -= _size(oldest, dropped)
        return True

    async def delete(self, key: str) -> None:
        """Forget the value."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= _size(key, entry[1])


def _size(key: str, value: bytes) -> int:
    return ENTRY_BYTES + len(key) + len(value)


cache = MemoryCache()
