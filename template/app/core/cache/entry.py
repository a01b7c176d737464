"""What the cache keeps: bytes, and for how long they may be shown. Pure, no pickle.

The form on the wire has a version: what another release wrote in another form is a miss.
"""

import struct
from enum import Enum
from time import time
from typing import Any

VERSION = 1
# Version, time of loading, seconds of the three windows, length of the meta data.
_HEAD = struct.Struct("!BddddI")


class Freshness(Enum):
    FRESH = "fresh"
    # Shown while one refresh runs.
    STALE = "stale"
    # Shown only when it cannot be loaded again.
    SPARE = "spare"
    DEAD = "dead"


class Entry:
    """Bytes that were loaded at `stored_at`, in seconds since 1970.

    They are fresh for `ttl_s`; then they may be shown for `stale_s` while a refresh runs, and for
    `error_s` when they cannot be loaded. `meta` is their owner's, and so is `parsed`, what it made
    of that in this process.
    """

    __slots__ = ("body", "error_s", "meta", "parsed", "stale_s", "stored_at", "ttl_s")

    def __init__(
        self,
        body: bytes | memoryview,
        *,
        ttl_s: float,
        meta: bytes | memoryview = b"",
        stale_s: float = 0.0,
        error_s: float = 0.0,
        stored_at: float | None = None,
    ) -> None:
        # Copies: bytes that an encoder made can hold on to a much larger buffer.
        self.body = bytes(memoryview(body))
        self.meta = bytes(memoryview(meta))
        self.stored_at = time() if stored_at is None else stored_at
        self.ttl_s = ttl_s
        self.stale_s = stale_s
        self.error_s = error_s
        self.parsed: Any = None

    @property
    def lifetime_s(self) -> float:
        """How long it is of any use."""
        return self.ttl_s + max(self.stale_s, self.error_s)

    def age_s(self, now: float) -> float:
        """Seconds since it was loaded, and never negative, should the clocks of machines differ."""
        return max(0.0, now - self.stored_at)

    def freshness(self, now: float) -> Freshness:
        """What it may be used for."""
        over = self.age_s(now) - self.ttl_s
        if over < 0:
            return Freshness.FRESH
        if over < self.stale_s:
            return Freshness.STALE
        return Freshness.SPARE if over < self.error_s else Freshness.DEAD


def encode(entry: Entry) -> bytes:
    """The entry without what was parsed."""
    head = _HEAD.pack(
        VERSION,
        entry.stored_at,
        entry.ttl_s,
        entry.stale_s,
        entry.error_s,
        len(entry.meta),
    )
    return b"".join((head, entry.meta, entry.body))


def decode(raw: bytes) -> Entry | None:
    """What `encode` was given; None for anything else."""
    if len(raw) < _HEAD.size or raw[0] != VERSION:
        return None
    _, stored_at, ttl_s, stale_s, error_s, meta_bytes = _HEAD.unpack_from(raw)
    end = _HEAD.size + meta_bytes
    if len(raw) < end:
        return None
    # A view: the entry makes the one copy.
    view = memoryview(raw)
    return Entry(
        view[end:],
        meta=view[_HEAD.size : end],
        stored_at=stored_at,
        ttl_s=ttl_s,
        stale_s=stale_s,
        error_s=error_s,
    )
