"""The local cache: entries in the memory of this process, least recently used dropped first.

Invalidations are counted, and an entry remembers the count at which its loading began. An entry
that began to load before the last invalidation of one of its tags is never shown, however late it
arrives.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from time import monotonic

from app.core.cache.store.entry import Entry, Freshness

# The entry object, its key and its place in the dictionary, in CPython 3.11 to 3.14.
ENTRY_BYTES = 500
# Beyond this number the oldest invalidations are forgotten, and all entries loaded before them.
MAX_INVALIDATIONS = 100_000
# The tag of every entry.
EVERYTHING = "*"


class LocalCache:
    """Entries by key, within `max_bytes`."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[int, Entry]] = OrderedDict()
        self._bytes = 0
        # Until the limit is set, no entry is kept.
        self.max_bytes = 0
        # By tag, the count at its last invalidation.
        self._invalidated: OrderedDict[str, int] = OrderedDict()
        # Entries that began to load before this count are not shown, whatever their tags.
        self._floor = 0
        self.invalidations = 0
        # On the monotonic clock. Afterwards, this process may have missed invalidations of others.
        self.trusted_until = inf

    def clear(self) -> None:
        """Drop all entries, and refuse the entries that are loading."""
        self._entries.clear()
        self._bytes = 0
        self._invalidated.clear()
        self.invalidations += 1
        self._floor = self.invalidations

    def last_invalidation(self, tags: Sequence[str]) -> int:
        """Return the count at the last invalidation of one of these tags."""
        invalidated, floor = self._invalidated, self._floor
        return max([invalidated.get(tag, floor) for tag in tags], default=floor)

    def get(self, key: str, tags: Sequence[str]) -> Entry | None:
        """Return the entry; None when it is absent, expired, invalidated or not to be trusted."""
        held = self._entries.get(key)
        if held is None or monotonic() >= self.trusted_until:
            return None
        began, entry = held
        if began < self.last_invalidation(tags) or entry.freshness() is Freshness.EXPIRED:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: str, tags: Sequence[str], entry: Entry, began: int) -> bool:
        """Keep an entry that began to load at the count `began`; return whether it is kept."""
        size = _size(key, entry)
        if (
            size > self.max_bytes
            or began < self.last_invalidation(tags)
            or monotonic() >= self.trusted_until
        ):
            return False
        self._drop(key)
        self._entries[key] = (began, entry)
        self._bytes += size
        while self._bytes > self.max_bytes:
            self._drop(next(iter(self._entries)))
        return True

    def invalidate(self, tags: Sequence[str]) -> None:
        """Drop the entries with one of these tags, and refuse those that are loading now."""
        if EVERYTHING in tags:
            self.clear()
            return
        self.invalidations += 1
        for tag in tags:
            self._invalidated[tag] = self.invalidations
            self._invalidated.move_to_end(tag)
        while len(self._invalidated) > MAX_INVALIDATIONS:
            _, self._floor = self._invalidated.popitem(last=False)

    def _drop(self, key: str) -> None:
        held = self._entries.pop(key, None)
        if held is not None:
            self._bytes -= _size(key, held[1])


def _size(key: str, entry: Entry) -> int:
    # The meta data twice: as bytes, and in parsed form.
    return ENTRY_BYTES + len(key) + len(entry.body) + 2 * len(entry.meta)
