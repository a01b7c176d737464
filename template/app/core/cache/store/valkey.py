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
    # Otherwise the caller loads.
    is_shown: bool = False
    # Whether this worker waited for another one.
    has_waited: bool = False
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

    async def look_up(self, key: str, tags: Sequence[str], *, accept_stale: bool) -> Lookup:
        """Return an entry to show, or the lease to load it; wait while another worker loads it.

        If it returns neither, the caller loads all the same: the server is unavailable or slow, or
        the other worker takes too long.
        """
        if self._server.is_slow:
            self._counts["shared", "skipped"] += 1
            return Lookup()
        lease = os.urandom(TOKEN_BYTES)
        # GET returns the token of the lease: None when it was free.
        take: Command = ("SET", self._name("lease", key), lease, "NX", "GET", "PX", LEASE_MS)
        give_up_at = time.monotonic() + LEASE_S
        lease_until, has_waited = 0.0, False
        found = await self.find(key, tags)
        while not _is_shown(found.entry, accept_stale=accept_stale):
            now = time.monotonic()
            if lease_until or found.generations is None or now > give_up_at:
                return Lookup(found.entry, False, has_waited, found.generations, lease_until)
            # Lease and entry in one round trip: a worker that gets the lease after another has
            # stored the entry finds it.
            new: list[Command] = [
                ("SET", name, os.urandom(TOKEN_BYTES), "NX", "EX", GENERATION_S)
                for name in found.missing
            ]
            found = await self.find(key, tags, take, *new)
            if found.reply is None:
                lease_until = now + LEASE_S
            elif found.generations is not None:
                has_waited = True
                await asyncio.sleep(LEASE_POLL_S)
        # With the lease, too, the entry is new: another worker stored it since the first look.
        lookup = Lookup(found.entry, True, has_waited or bool(lease_until), None, lease_until)
        await self.finish(key, lookup, None)
        return lookup

    async def finish(self, key: str, lookup: Lookup, entry: Entry | None) -> bool:
        """Store the loaded entry, if any, and end the lease; return whether it is stored."""
        commands: list[Command] = []
        if entry is not None and lookup.generations is not None:
            lifetime_ms = max(1, int(entry.lifetime_s * 1000))
            sealed = encode(entry, lookup.generations)
            commands.append(("SET", self._name("entry", key), sealed, "PX", lifetime_ms))
        # A lease that has ended may belong to another worker.
        if time.monotonic() < lookup.lease_until:
            commands.append(("DEL", self._name("lease", key)))
        if not commands or await self._server.attempt(*commands) is None:
            return False
        return entry is not None and lookup.generations is not None

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
