"""Which responses are worth storing: those that are requested again while they are stored."""

from collections.abc import Callable
from time import monotonic
from zlib import crc32

from app.core.cache.keys import KeyedRoute
from app.core.cache.responses.rules import lifetime_of

# While fewer misses of a route than this share repeat, its first requests are not stored.
MIN_SHARE = 0.1
# The share counts about this many of the last misses.
LAST_MISSES = 128
# One key of so many is always stored. All workers choose the same keys, so that they hit each
# other's entries.
SAMPLE = 8
# The most keys of a generation; when the young one is full, it becomes the old one.
MAX_KEYS = 8192


class Admission:
    """Counts the misses of this process that repeat, by route.

    For a miss, the caches are read and written, which costs as much as a cheap endpoint. Where
    nearly every request is for another key, only a key that is requested twice is worth that. A
    request repeats if its key had a miss within two lifetimes of a response.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        # By the checksum of a key, the end of the time in which a request repeats.
        self._young: dict[int, float] = {}
        self._old: dict[int, float] = {}
        self._shares: dict[KeyedRoute, float] = {}

    def admit(self, route: KeyedRoute, name: str) -> bool:
        """Note a miss of the key `name`; return whether its response may be stored."""
        now, key = self._clock(), crc32(name.encode())
        repeats = now < self._young.get(key, self._old.get(key, 0.0))
        if len(self._young) >= MAX_KEYS:
            self._old, self._young = self._young, {}
        self._young[key] = now + 2 * lifetime_of(route.policy)
        share = self._shares.get(route, 1.0)
        share += (repeats - share) / LAST_MISSES
        self._shares[route] = share
        return repeats or share >= MIN_SHARE or key % SAMPLE == 0

    def note_shared_hit(self, route: KeyedRoute) -> None:
        """Note that another worker had stored the response, as a miss that repeats."""
        share = self._shares.get(route, 1.0)
        # Below the limit, only a sample of the keys is looked for.
        weight = 1 if share >= MIN_SHARE else SAMPLE
        self._shares[route] = share + (1.0 - share) * weight / LAST_MISSES
