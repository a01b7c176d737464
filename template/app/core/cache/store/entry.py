"""Entries of the cache: bytes with their freshness. Pure; no pickle.

The encoded form starts with a version: an entry of a release with another form is a miss.
"""

import struct
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from time import time
from typing import Any

VERSION = 2
# Version, time of loading, the three durations, and the lengths of the seal and the meta data.
_HEAD = struct.Struct("!BddddHI")


class Freshness(Enum):
    """The use that an entry still has."""

    FRESH = "fresh"
    STALE_WHILE_REVALIDATE = "stale-while-revalidate"
    STALE_IF_ERROR = "stale-if-error"
    EXPIRED = "expired"


@dataclass(slots=True, eq=False)
class Entry:
    """Bytes that were loaded at `loaded_at`, in seconds since 1970; durations are in seconds.

    `meta` belongs to the entry's owner, as does `parsed`, the owner's parsed form of `meta` in
    this process.
    """

    body: bytes
    _: KW_ONLY
    ttl_s: float
    meta: bytes = b""
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    loaded_at: float = field(default_factory=time)
    parsed: Any = None

    def __post_init__(self) -> None:
        # Copies: the bytes of an encoder can hold on to a much larger buffer.
        self.body = bytes(memoryview(self.body))
        self.meta = bytes(memoryview(self.meta))

    @property
    def lifetime_s(self) -> float:
        """The time from loading until the entry is expired."""
        return self.ttl_s + max(self.stale_while_revalidate_s, self.stale_if_error_s)

    def age_s(self) -> float:
        """Return the time since loading; never negative, although clocks of machines differ."""
        return max(0.0, time() - self.loaded_at)

    def freshness(self) -> Freshness:
        """Return the use that the entry has now."""
        staleness_s = self.age_s() - self.ttl_s
        if staleness_s < 0:
            return Freshness.FRESH
        if staleness_s < self.stale_while_revalidate_s:
            return Freshness.STALE_WHILE_REVALIDATE
        if staleness_s < self.stale_if_error_s:
            return Freshness.STALE_IF_ERROR
        return Freshness.EXPIRED


def encode(entry: Entry, seal: bytes = b"") -> bytes:
    """Return the entry as bytes, without `parsed`; only the same `seal` opens them."""
    durations = entry.ttl_s, entry.stale_while_revalidate_s, entry.stale_if_error_s
    head = _HEAD.pack(VERSION, entry.loaded_at, *durations, len(seal), len(entry.meta))
    return b"".join((head, seal, entry.meta, entry.body))


def decode(raw: bytes, seal: bytes | None = b"") -> Entry | None:
    """Return the entry that `encode` was given with this seal, or with any seal if it is None.

    Return None for all other bytes.
    """
    if len(raw) < _HEAD.size or raw[0] != VERSION:
        return None
    _, loaded_at, ttl_s, while_revalidate_s, if_error_s, seal_size, size = _HEAD.unpack_from(raw)
    begin = _HEAD.size + seal_size
    end = begin + size
    if len(raw) < end or (seal is not None and raw[_HEAD.size : begin] != seal):
        return None
    return Entry(
        raw[end:],
        meta=raw[begin:end],
        loaded_at=loaded_at,
        ttl_s=ttl_s,
        stale_while_revalidate_s=while_revalidate_s,
        stale_if_error_s=if_error_s,
    )
