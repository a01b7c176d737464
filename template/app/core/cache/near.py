"""Entries in this process: the fastest there is, within a limit of bytes and of entries.

An invalidation is a number in a sequence, and an entry has the number at which its loading began:
one that began before the last invalidation of a tag it carries is not shown, whenever it arrives.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import inf
from time import monotonic, time

from app.core.cache.entry import Entry, Freshness

# Of the entry, its key and its place in the dictionary, in CPython 3.11 to 3.14.
ENTRY_BYTES = 500
# Beyond that the oldest invalidations are forgotten, and with them all that was loaded before.
MAX_INVALIDATIONS = 100_000


class Near:
    """What is used least goes first once `max_bytes` or `max_entries` is reached."""

    def __init__(self) -> None:
        self._entries: OrderedDict[str, tuple[int, Entry]] = OrderedDict()
        self._bytes = 0
        self._max_bytes = 0
        self._max_entries = 0
        self._invalidated: OrderedDict[str, int] = OrderedDict()
        # What began before this number is not shown, whatever its tags.
        self._floor = 0
        self.sequence = 0
        # By the monotonic clock; later, another process may have invalidated what is here.
        self.trusted_until = inf

    def open(self, *, max_bytes: int, max_entries: int) -> None:
        """Begin to keep entries."""
        self._max_bytes = max_bytes
        self._max_entries = max_entries

    def clear(self) -> None:
        """Forget everything, also what is being loaded."""
        self._entries.clear()
        self._bytes = 0
        self._invalidated.clear()
        self.sequence += 1
        self._floor = self.sequence

    def newest(self, tags: Sequence[str]) -> int:
        """The number of the last invalidation that concerns these tags."""
        invalidated, floor = self._invalidated, self._floor
        return max([invalidated.get(tag, floor) for tag in tags], default=floor)

    def get(self, key: str, tags: Sequence[str]) -> Entry | None:
        """The entry, unless it is unknown, dead, invalidated or not to be trusted."""
        held = self._entries.get(key)
        if held is None or monotonic() >= self.trusted_until:
            return None
        sequence, entry = held
        if sequence < self.newest(tags) or entry.freshness(time()) is Freshness.DEAD:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def put(self, key: str, tags: Sequence[str], entry: Entry, sequence: int) -> bool:
        """Keep what began to be loaded at `sequence`; says whether it is kept."""
        size = _size(key, entry)
        if (
            size > self._max_bytes
            or sequence < self.newest(tags)
            or monotonic() >= self.trusted_until
        ):
            return False
        self._drop(key)
        self._entries[key] = (sequence, entry)
        self._bytes += size
        while self._bytes > self._max_bytes or len(self._entries) > self._max_entries:
            self._drop(next(iter(self._entries)))
        return True

    def invalidate(self, tags: Sequence[str]) -> None:
        """Show nothing any more that carries one of these tags and was loaded until now."""
        self.sequence += 1
        for tag in tags:
            self._invalidated[tag] = self.sequence
            self._invalidated.move_to_end(tag)
        while len(self._invalidated) > MAX_INVALIDATIONS:
            _, self._floor = self._invalidated.popitem(last=False)

    def _drop(self, key: str) -> None:
        held = self._entries.pop(key, None)
        if held is not None:
            self._bytes -= _size(key, held[1])


def _size(key: str, entry: Entry) -> int:
    # Meta data twice: as bytes, and as what they were parsed to.
    return ENTRY_BYTES + len(key) + len(entry.body) + 2 * len(entry.meta)
