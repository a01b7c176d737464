"""The shared cache: entries in Valkey, for all workers.

An entry is stored with the generations that its tags had before it was loaded, and is shown while
these are current. A generation is a random number; the first reader that finds none makes it. An
invalidation deletes generations. An eviction, of an entry or of a generation, causes a miss, and
never shows an old value. No method raises when the server fails: the caller then loads.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from app.core.cache.store.connection import Command
from app.core.cache.store.entry import Entry, Freshness, decode, encode
from app.core.cache.store.local import EVERYTHING
from app.core.cache.store.server import Server

# One worker loads an entry; after this time the others stop waiting and load it themselves.
LEASE_S = 3.0
LEASE_MS = int(LEASE_S * 1000)
LEASE_POLL_S = 0.01
# Seconds; also the longest life of a shared entry.
GENERATION_S = 24 * 3600
# Of a generation and of a lease.
TOKEN_BYTES = 8
# If more of the last looks than this share found no entry, the first look takes the lease: this
# saves a round trip for a miss, and costs a hit the commands that take and return the lease.
LEASE_FROM = 0.1
WEIGHT_OF_ONE = 1 / 8


class Found(NamedTuple):
    """Replies of the server: the entry, the generations of its tags, and those that are missing."""

    entry: Entry | None
    # None when the server does not answer.
    generations: bytes | None
    # The keys of generations that are missing.
    missing: Sequence[str] = ()
    # To the first command of `before`: None when the lease was free.
    reply: bytes | None = b""


class Lookup(NamedTuple):
    """An entry, perhaps too old to be shown, and what `finish` needs after a load."""

    entry: Entry | None = None
    # Whether the entry may be shown; otherwise, the caller loads.
    is_shown: bool = False
    # Whether this worker waited for another one.
    has_waited: bool = False
    # Whether another worker loads the entry, and `look_up` may not wait for it.
    is_loaded_elsewhere: bool = False
    generations: bytes | None = None
    # In seconds of the monotonic clock; 0 is no lease.
    lease_until: float = 0.0


class SharedCache:
    """Entries in the server.

    Args:
        counts: reads by level and outcome.
    """

    def __init__(self, server: Server, counts: Counter[tuple[str, str]]) -> None:
        self._server = server
        self._counts = counts
        # Entries of other releases are not shown; invalidations concern all releases.
        self.version = ""
        # The share of misses among the last looks: see `LEASE_FROM`.
        self._misses = 0.0

    async def look_up(
        self, key: str, tags: Sequence[str], token: bytes, *, accept_stale: bool, may_wait: bool
    ) -> Lookup:
        """Return an entry to show, or the lease to load it; wait while another worker loads it.

        If it returns neither, the caller loads all the same: the server is unavailable or slow, or
        the other worker takes too long.

        Args:
            token: names the holder of the lease.
        """
        if self._server.is_slow:
            self._counts["shared", "skipped"] += 1
            return Lookup()
        give_up_at = time.monotonic() + LEASE_S
        lease_until, has_waited, makes_all = 0.0, False, False
        # Usually no tag of a new entry has a generation yet, but `EVERYTHING` has.
        missing: Sequence[str] = [self._server.name("tag", tag) for tag in tags]
        is_first, takes_lease = True, self._misses > LEASE_FROM
        while True:
            now = time.monotonic()
            # Lease and entry in one round trip: a worker that gets the lease after another has
            # stored the entry finds it.
            before: list[Command] = []
            if takes_lease:
                generation = new_token()
                before = [("SET", name, generation, "NX", "EX", GENERATION_S) for name in missing]
                if not lease_until:
                    # GET returns the token of the lease: None when it was free.
                    lease = self._name("lease", key)
                    before.insert(0, ("SET", lease, token, "NX", "GET", "PX", LEASE_MS))
            found = await self.find(key, tags, *before)
            is_shown = _is_shown(found.entry, accept_stale=accept_stale)
            if takes_lease and not lease_until and found.reply in (None, token):
                lease_until = now + LEASE_S
            if is_first:
                self._misses += (float(not is_shown) - self._misses) * WEIGHT_OF_ONE
            if is_shown:
                break
            is_complete = not found.missing or makes_all
            if found.generations is None or now > give_up_at or (lease_until and is_complete):
                return Lookup(found.entry, False, has_waited, False, found.generations, lease_until)
            if takes_lease and not lease_until:
                if not may_wait:
                    return Lookup(found.entry, is_loaded_elsewhere=True)
                has_waited = True
                await asyncio.sleep(LEASE_POLL_S)
            missing, makes_all = found.missing, True
            is_first, takes_lease = False, True
        # With the lease of a later look, the entry is new: another worker stored it meanwhile.
        has_waited = has_waited or (lease_until > 0 and not is_first)
        lookup = Lookup(found.entry, True, has_waited, False, None, lease_until)
        self.finish(key, lookup, None)
        return lookup

    def finish(self, key: str, lookup: Lookup, entry: Entry | None) -> bool:
        """Store the loaded entry, if any, and end the lease; return whether the entry is sent."""
        commands: list[Command] = []
        if entry is not None and lookup.generations is not None:
            lifetime_ms = max(1, int(entry.lifetime_s * 1000))
            sealed = encode(entry, lookup.generations)
            commands.append(("SET", self._name("entry", key), sealed, "PX", lifetime_ms))
        # A lease that has ended may belong to another worker.
        if time.monotonic() < lookup.lease_until:
            commands.append(("DEL", self._name("lease", key)))
        is_sent = bool(commands) and self._server.send(*commands)
        return is_sent and entry is not None and lookup.generations is not None

    async def find(self, key: str, tags: Sequence[str], *before: Command) -> Found:
        """Ask the server, after the commands `before`, for an entry and the tags' generations."""
        names = [self._server.name("tag", tag) for tag in (EVERYTHING, *tags)]
        replies = await self._server.attempt(*before, ("MGET", self._name("entry", key), *names))
        if replies is None:
            return Found(None, None)
        if self._server.is_pending(tags):
            return Found(None, None, reply=replies[0])
        raw, *generations = replies[-1]
        missing = [name for name, known in zip(names, generations, strict=True) if not known]
        if missing:
            # Not None: the server has answered.
            return Found(None, b"", missing, replies[0])
        seal = b"".join(generations)
        return Found(decode(raw, seal) if raw else None, seal, reply=replies[0])

    async def stored(self, key: str) -> Entry | None:
        """Return the entry in the server under `key`, invalidated or not."""
        replies = await self._server.attempt(("GET", self._name("entry", key)))
        return decode(replies[0], None) if replies and replies[0] else None

    def _name(self, kind: str, key: str) -> str:
        return self._server.name(kind, self.version, key)


def _is_shown(entry: Entry | None, *, accept_stale: bool) -> bool:
    if entry is None:
        return False
    freshness = entry.freshness()
    if freshness is Freshness.STALE_WHILE_REVALIDATE:
        return accept_stale
    return freshness is Freshness.FRESH


def new_token() -> bytes:
    """Return random bytes, different for each caller."""
    return os.urandom(TOKEN_BYTES)
