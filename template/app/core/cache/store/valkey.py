"""The shared cache: Valkey, which all workers share, with invalidation of their local caches.

An invalidation deletes the generation of each tag in the server, and publishes the tags in the same
transaction. A worker that has not heard from the server for `TRUST_S` stops trusting its local
cache. An entry is stored with the generations that its tags had before it was loaded, and is shown
while these are current. A generation is a random number, made by the first reader that finds none:
so an eviction by the server, of an entry or of a generation, can only cause a miss.

No method raises when the server fails: a read then loads, and an invalidation is delivered later.
"""

import asyncio
import os
import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from logging import getLogger
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from app.core.cache.settings import CacheSettings
from app.core.cache.store.connection import Command, MultiplexedConnection
from app.core.cache.store.entry import Entry, Freshness, decode, encode
from app.core.cache.store.local import EVERYTHING, LocalCache

# How often a worker asks whether it still hears invalidations, and how long the answer is valid.
HEARTBEAT_S = 0.5
TRUST_S = 1.5
# One worker loads an entry; after this time the others stop waiting and load it themselves.
LEASE_S = 3.0
LEASE_POLL_S = 0.01
# No shared entry is used longer than this.
GENERATION_S = 24 * 3600
GENERATION_BYTES = 8
MAX_UNDELIVERED = 10_000

logger = getLogger(__name__)


class Found(NamedTuple):
    """A reply of the server: the entry, the generations of its tags, and the missing ones."""

    entry: Entry | None
    # None when the server does not answer.
    generations: bytes | None
    missing: Sequence[str] = ()


class Claim(NamedTuple):
    """An entry to show; or, when it is None, what `finish` needs after the load."""

    entry: Entry | None
    # Whether this worker waited for another one.
    has_waited: bool = False
    # An older entry, to show when the load fails.
    spare: Entry | None = None
    generations: bytes | None = None
    # By the monotonic clock; 0 without a lease.
    lease_until: float = 0.0


class SharedCache:
    """Entries in the server, and the messages about invalidations.

    Args:
        local: the local cache of this process, which the messages invalidate.
        counts: reads by level and outcome; failures of the server are counted here.
    """

    def __init__(self, local: LocalCache, counts: Counter[tuple[str, str]]) -> None:
        self._local = local
        self._counts = counts
        self._server: MultiplexedConnection | None = None
        self._heart: asyncio.Task[None] | None = None
        # Lost connections; during each, messages may have been missed.
        self._losses = 0
        self._prefix = ""
        # Entries of other releases are not shown; invalidations concern all releases.
        self._version = ""
        self._retry_after_s = 0.0
        self._closed_until = 0.0
        # Invalidations without the server's confirmation: until then its entries are not shown.
        self._undelivered: dict[str, object] = {}
        self._reported: Counter[tuple[str, str]] = Counter()

    def open(self, settings: CacheSettings) -> None:
        """Begin to connect and to listen, without waiting."""
        self._prefix = settings.cache_prefix
        self._version = settings.cache_version
        self._retry_after_s = settings.cache_retry_after_s
        self._closed_until = 0.0
        self._server = MultiplexedConnection(
            settings.cache_url.get_secret_value(),
            self._name("invalidated"),
            timeout_s=settings.cache_timeout_s,
            on_message=self._on_message,
            on_loss=self._on_loss,
        )
        self._local.trusted_until = 0.0
        self._heart = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop listening and close the connection."""
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
            self._heart = None
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def ping(self) -> bool:
        """Return whether the server answers in time."""
        return await self._attempt(("PING",)) is not None

    @property
    def has_pending(self) -> bool:
        """Whether there are invalidations that the server has not confirmed."""
        return bool(self._undelivered)

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate tags in all workers, or `EVERYTHING`; later if the server is unavailable."""
        self._undelivered |= dict.fromkeys(tags, object())
        if len(self._undelivered) > MAX_UNDELIVERED:
            self._undelivered = {EVERYTHING: object()}
        await self._deliver()

    async def find_or_claim(self, key: str, tags: Sequence[str], *, accept_stale: bool) -> Claim:
        """Return an entry to show, or the lease to load it; wait while another worker loads it.

        A claim without a lease and without an entry means: load all the same, because the server
        is unavailable or the other worker takes too long.
        """
        lease = os.urandom(GENERATION_BYTES)
        lease_until = 0.0
        give_up_at = time.monotonic() + LEASE_S
        has_waited = False
        found = await self.find(key, tags)
        while not _is_shown(found.entry, accept_stale=accept_stale):
            if lease_until or found.generations is None or time.monotonic() > give_up_at:
                spare = found.entry
                if spare is not None and spare.freshness(time.time()) is Freshness.EXPIRED:
                    spare = None
                return Claim(None, has_waited, spare, found.generations, lease_until)
            claimed_at = time.monotonic()
            is_mine, found = await self._claim(key, tags, lease, found.missing)
            if is_mine:
                lease_until = claimed_at + LEASE_S
            elif found.generations is not None:
                has_waited = True
                await asyncio.sleep(LEASE_POLL_S)
        claim = Claim(found.entry, has_waited or bool(lease_until), lease_until=lease_until)
        if lease_until:
            await self.finish(key, claim, None)
        return claim

    async def finish(self, key: str, claim: Claim, entry: Entry | None) -> bool:
        """Store the loaded entry, if any, and end the lease; return whether it is stored."""
        commands: list[Command] = []
        if entry is not None and claim.generations is not None:
            name = self._name("entry", self._version, key)
            lifetime_ms = max(1, int(entry.lifetime_s * 1000))
            commands.append(("SET", name, _wrap(entry, claim.generations), "PX", lifetime_ms))
        is_storable = bool(commands)
        # A lease that has ended may belong to another worker.
        if time.monotonic() < claim.lease_until:
            commands.append(("DEL", self._name("lease", self._version, key)))
        if not commands:
            return False
        return await self._attempt(*commands) is not None and is_storable

    async def find(self, key: str, tags: Sequence[str]) -> Found:
        """Ask the server for an entry and the generations of its tags."""
        names = self._names(key, tags)
        replies = await self._attempt(("MGET", *names))
        return Found(None, None) if replies is None else self._found(names, replies[0], tags)

    async def stored(self, key: str) -> Entry | None:
        """Return the entry in the server under `key`, invalidated or not."""
        replies = await self._attempt(("GET", self._name("entry", self._version, key)))
        raw = replies[0] if replies else None
        if raw is None or len(raw) < _COUNT.size:
            return None
        (generations_bytes,) = _COUNT.unpack_from(raw)
        return decode(raw[_COUNT.size + generations_bytes :])

    async def total_counts(self) -> dict[str, int]:
        """Return the counts of all workers since the server started, by level and outcome."""
        replies = await self._attempt(("HGETALL", self._name("counts")))
        found: dict[bytes, bytes] = replies[0] if replies else {}
        return {outcome.decode(): int(count) for outcome, count in sorted(found.items())}

    async def _claim(
        self, key: str, tags: Sequence[str], lease: bytes, missing: Sequence[str]
    ) -> tuple[bool, Found]:
        """Try to take the lease; return whether this worker has it, and the entry by then.

        Both in one round trip: a worker that takes the lease after another one finds its entry.
        """
        names = self._names(key, tags)
        lease_name = self._name("lease", self._version, key)
        replies = await self._attempt(
            # With GET, a repeated claim recognises its own lease.
            ("SET", lease_name, lease, "NX", "GET", "PX", int(LEASE_S * 1000)),
            *(
                ("SET", name, os.urandom(GENERATION_BYTES), "NX", "EX", GENERATION_S)
                for name in missing
            ),
            ("MGET", *names),
        )
        if replies is None:
            return False, Found(None, None)
        return replies[0] in (None, lease), self._found(names, replies[-1], tags)

    def _names(self, key: str, tags: Sequence[str]) -> list[str]:
        entry = self._name("entry", self._version, key)
        return [entry, *(self._name("tag", tag) for tag in (EVERYTHING, *tags))]

    def _found(self, names: Sequence[str], values: Sequence[Any], tags: Sequence[str]) -> Found:
        if not self._undelivered.keys().isdisjoint((EVERYTHING, *tags)):
            return Found(None, None)
        raw, *generations = values
        if not all(generations):
            pairs = zip(names[1:], generations, strict=True)
            return Found(None, b"", [name for name, known in pairs if not known])
        joined = b"".join(generations)
        return Found(_unwrap(raw, joined) if raw else None, joined)

    async def _deliver(self) -> None:
        """Send the invalidations that the server has not confirmed."""
        tags = self._undelivered.copy()
        if tags and await self._attempt(
            ("MULTI",),
            # DEL works even when the memory of the server is full.
            ("DEL", *(self._name("tag", tag) for tag in tags)),
            ("PUBLISH", self._name("invalidated"), "\n".join(tags)),
            ("EXEC",),
        ):
            for tag, invalidation in tags.items():
                # Unless the tag was invalidated again meanwhile.
                if self._undelivered.get(tag) is invalidation:
                    del self._undelivered[tag]

    async def _beat(self) -> None:
        """Verify again and again that invalidations are heard, until the cache is closed."""
        while True:
            asked = time.monotonic()
            losses = self._losses
            try:
                # The connection listens as long as it is up.
                if await self._attempt(("PING",)) is not None and self._losses == losses:
                    # Replies keep their order: all messages before the PONG have been handled.
                    self._local.trusted_until = asked + TRUST_S
                    await self._deliver()
                    await self._report()
            except Exception:
                logger.exception("cache: the heartbeat failed")
            await asyncio.sleep(HEARTBEAT_S)

    def _on_message(self, message: bytes) -> None:
        self._local.invalidate(message.decode(errors="replace").split("\n"))

    def _on_loss(self) -> None:
        self._losses += 1
        self._local.trusted_until = 0.0
        self._local.clear()

    async def _report(self) -> None:
        """Add the counts of this worker to the counts of all workers."""
        new = self._counts - self._reported
        name = self._name("counts")
        added = [("HINCRBY", name, " ".join(counted), count) for counted, count in new.items()]
        if added and await self._attempt(*added) is not None:
            self._reported += new

    async def _attempt(self, *commands: Command) -> list[Any] | None:
        """Return the replies; None when the server is unavailable, late, or refuses a command."""
        for is_last in (False, True):
            server = self._server
            if server is None or time.monotonic() < self._closed_until:
                return None
            try:
                return await server.execute(*commands)
            except ResponseError as error:
                # The server refuses this operation only; its memory is full, for example.
                logger.warning("cache: %s", error)
                return None
            except (RedisError, OSError) as error:
                # Try twice: the connection may be an old one, or this process may be late itself.
                if is_last:
                    self._counts["shared", "failure"] += 1
                    self._closed_until = time.monotonic() + self._retry_after_s
                    reason = f"{type(error).__name__}: {error}"
                    logger.warning("cache: not used for %g s: %s", self._retry_after_s, reason)
        return None

    def _name(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


_COUNT = struct.Struct("!H")


def _is_shown(entry: Entry | None, *, accept_stale: bool) -> bool:
    if entry is None:
        return False
    freshness = entry.freshness(time.time())
    if freshness is Freshness.STALE_WHILE_REVALIDATE:
        return accept_stale
    return freshness is Freshness.FRESH


def _wrap(entry: Entry, generations: bytes) -> bytes:
    return _COUNT.pack(len(generations)) + generations + encode(entry)


def _unwrap(raw: bytes, generations: bytes) -> Entry | None:
    """Return the entry if its generations are the current ones."""
    expected = _COUNT.pack(len(generations)) + generations
    return decode(raw[len(expected) :]) if raw.startswith(expected) else None
