"""The shared cache: Valkey, which all workers share, with invalidation of their local caches.

An invalidation deletes the generation of each tag in the server, and publishes the tags. A worker
that has not heard from the server for `TRUST_S` stops trusting its local cache. An entry is stored
with the generations that its tags had before it was loaded, and is shown while these are current. A
generation is a random number, made by the first reader that finds none: so an eviction by the
server, of an entry or of a generation, can only cause a miss.

A key holds the run id of the server that has the data. If it differs from the server's own, the
data may be an older snapshot, or a replica's: everything is invalidated before anything is shown.

No method raises when the server fails: a read then loads, and an invalidation is delivered later,
at the latest when the process stops.
"""

import asyncio
import os
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from logging import getLogger
from statistics import median
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from app.core.cache.settings import CacheSettings
from app.core.cache.store.connection import Command, MultiplexedConnection, Refusal
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
RETRY_S = 0.1
# The longest time that a stopping process spends on undelivered invalidations.
LAST_DELIVERY_S = 3.0
# `SET` with `NX` and `GET`.
OLDEST_VERSION = 7
# A faster server is always used; a slower one only if loads take longer still.
SLOW_S = 0.01

logger = getLogger(__name__)


class Found(NamedTuple):
    """Replies of the server: the entry, the generations of its tags, and the missing ones."""

    entry: Entry | None
    # None when the server does not answer.
    generations: bytes | None
    missing: Sequence[str] = ()
    # To the first command.
    reply: bytes | None = b""


class Lookup(NamedTuple):
    """An entry to show; or, when it is None, what `finish` needs after the load."""

    entry: Entry | None
    # Whether this worker waited for another one.
    has_waited: bool = False
    # An older entry, to show when the load fails; perhaps expired.
    spare: Entry | None = None
    generations: bytes | None = None
    # Both by the monotonic clock; there is no lease that ends at 0.
    lease_until: float = 0.0
    ended_at: float = 0.0


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
        self._unused_until = 0.0
        # The reason of the last failure.
        self._problem = "unreachable"
        self._run_id = b""
        # The newest ones: of heartbeats, and of loads.
        self._round_trips_s: deque[float] = deque(maxlen=5)
        self._loads_s: deque[float] = deque(maxlen=15)
        self.is_slow = False
        # Invalidations without the server's confirmation: until then its entries are not shown.
        self._undelivered: dict[str, object] = {}
        self._reported: Counter[tuple[str, str]] = Counter()

    def open(self, settings: CacheSettings) -> None:
        """Begin to connect and to listen, without waiting."""
        self._prefix = settings.cache_prefix
        self._version = settings.cache_version
        self._retry_after_s = settings.cache_retry_after_s
        self._unused_until = 0.0
        self._server = MultiplexedConnection(
            settings.cache_url.get_secret_value(),
            self._name("invalidated"),
            # MGET of two keys: a cluster refuses it, unless the prefix keeps all keys on one node.
            [("INFO",), ("MGET", self._name("run"), self._name("tag", EVERYTHING))],
            timeout_s=settings.cache_timeout_s,
            on_open=self._on_open,
            on_message=self._on_message,
            on_loss=self._on_loss,
        )
        self._local.trusted_until = 0.0
        self._heart = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop listening, deliver the last invalidations and close the connection."""
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
            self._heart = None
        if self._server is not None:
            await self._deliver_the_last()
            await self._server.close()
            self._server = None

    async def ping(self) -> bool:
        """Return whether the server answers in time, accepts writes, and has its own data."""
        replies = await self._attempt(("GETEX", self._name("run"), "EX", GENERATION_S))
        if replies is not None and replies[0] != self._run_id:
            self._undelivered = {EVERYTHING: object()}
        return replies is not None

    async def state(self) -> str:
        """Return "ok", or the reason why the server is not used."""
        if not await self.ping():
            return self._problem
        return "slower than the loads: not read" if self.is_slow else "ok"

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

    async def look_up(self, key: str, tags: Sequence[str], *, accept_stale: bool) -> Lookup:
        """Return an entry to show, or the lease to load it; wait while another worker loads it.

        With neither, the caller loads all the same: the server is unavailable or slow, or the
        other worker takes too long.
        """
        if self.is_slow:
            self._counts["shared", "skipped"] += 1
            return Lookup(None, ended_at=time.monotonic())
        lease = os.urandom(GENERATION_BYTES)
        # With GET, a repeated command recognises its own lease.
        lease_name, lease_ms = self._name("lease", self._version, key), int(LEASE_S * 1000)
        take: Command = ("SET", lease_name, lease, "NX", "GET", "PX", lease_ms)
        lease_until = 0.0
        give_up_at = time.monotonic() + LEASE_S
        has_waited = False
        found = await self.find(key, tags)
        while not _is_shown(found.entry, accept_stale=accept_stale):
            now = time.monotonic()
            if lease_until or found.generations is None or now > give_up_at:
                return Lookup(None, has_waited, found.entry, found.generations, lease_until, now)
            # In one round trip: the next worker that takes the lease finds the entry.
            new: list[Command] = [
                ("SET", name, os.urandom(GENERATION_BYTES), "NX", "EX", GENERATION_S)
                for name in found.missing
            ]
            found = await self.find(key, tags, take, *new)
            if found.reply in (None, lease):
                lease_until = now + LEASE_S
            elif found.generations is not None:
                has_waited = True
                await asyncio.sleep(LEASE_POLL_S)
        lookup = Lookup(found.entry, has_waited or bool(lease_until), lease_until=lease_until)
        if lease_until:
            await self.finish(key, lookup, None)
        return lookup

    async def finish(self, key: str, lookup: Lookup, entry: Entry | None) -> bool:
        """Store the loaded entry, if any, and end the lease; return whether it is stored."""
        commands: list[Command] = []
        if entry is not None:
            self._loads_s.append(time.monotonic() - lookup.ended_at)
            if lookup.generations is not None:
                lifetime_ms = max(1, int(entry.lifetime_s * 1000))
                sealed = encode(entry, lookup.generations)
                commands.append(("SET", self._entry(key), sealed, "PX", lifetime_ms))
        is_storable = bool(commands)
        # A lease that has ended may belong to another worker.
        if time.monotonic() < lookup.lease_until:
            commands.append(("DEL", self._name("lease", self._version, key)))
        if not commands:
            return False
        return await self._attempt(*commands) is not None and is_storable

    async def find(self, key: str, tags: Sequence[str], *before: Command) -> Found:
        """Ask the server, after the commands `before`, for an entry and the tags' generations."""
        names = [self._name("tag", tag) for tag in (EVERYTHING, *tags)]
        replies = await self._attempt(*before, ("MGET", self._entry(key), *names))
        if replies is None:
            return Found(None, None)
        if not self._undelivered.keys().isdisjoint((EVERYTHING, *tags)):
            return Found(None, None, reply=replies[0])
        raw, *generations = replies[-1]
        missing = [name for name, known in zip(names, generations, strict=True) if not known]
        if missing:
            return Found(None, b"", missing, replies[0])
        seal = b"".join(generations)
        return Found(decode(raw, seal) if raw else None, seal, reply=replies[0])

    async def stored(self, key: str) -> Entry | None:
        """Return the entry in the server under `key`, invalidated or not."""
        replies = await self._attempt(("GET", self._entry(key)))
        return decode(replies[0], None) if replies and replies[0] else None

    async def total_counts(self) -> dict[str, int]:
        """Return the counts of all workers since the server started, by level and outcome."""
        replies = await self._attempt(("HGETALL", self._name("counts")))
        found: dict[bytes, bytes] = replies[0] if replies else {}
        return {outcome.decode(): int(count) for outcome, count in sorted(found.items())}

    async def _deliver(self) -> None:
        """Send the invalidations that the server has not confirmed."""
        tags = self._undelivered.copy()
        if not tags:
            return
        commands: list[Command] = [
            ("DEL", *(self._name("tag", tag) for tag in tags)),
            ("PUBLISH", self._name("invalidated"), "\n".join(tags)),
        ]
        if EVERYTHING in tags:
            commands.append(("SET", self._name("run"), self._run_id, "EX", GENERATION_S))
        if await self._attempt(*commands) is None:
            return
        for tag, invalidation in tags.items():
            # Unless the tag was invalidated again meanwhile.
            if self._undelivered.get(tag) is invalidation:
                del self._undelivered[tag]

    async def _deliver_the_last(self) -> None:
        """Deliver before the process ends, within `LAST_DELIVERY_S`, or log the loss."""
        give_up_at = time.monotonic() + LAST_DELIVERY_S
        while self._undelivered and time.monotonic() < give_up_at:
            self._unused_until = 0.0
            await self._deliver()
            if self._undelivered:
                await asyncio.sleep(RETRY_S)
        if self._undelivered:
            logger.error(
                "cache: %d invalidated tags were not delivered: entries with them are shown until "
                "they expire: %s",
                len(self._undelivered),
                ", ".join(list(self._undelivered)[:10]),
            )

    async def _beat(self) -> None:
        """Verify again and again that invalidations are heard, until the cache is closed."""
        while True:
            asked = time.monotonic()
            losses = self._losses
            try:
                # The connection listens as long as it is up.
                if await self.ping():
                    self._round_trips_s.append(time.monotonic() - asked)
                    self.is_slow = slower(self._round_trips_s, self._loads_s)
                    await self._deliver()
                    if self._losses == losses:
                        # Replies keep their order: all messages before these have been handled.
                        self._local.trusted_until = asked + TRUST_S
                    await self._report()
            except Exception:
                logger.exception("cache: the heartbeat failed")
            await asyncio.sleep(HEARTBEAT_S)

    def _on_open(self, replies: list[Any]) -> None:
        """Learn which server has answered, and whose data it has."""
        info, (run_id, _) = replies
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        version = facts.get("redis_version", "unknown")
        if not version[:1].isdecimal() or int(version.partition(".")[0]) < OLDEST_VERSION:
            raise Refusal(f"version {version} is too old: Valkey, or Redis 7, is needed")
        if facts.get("rdb_saves", "0") != "0":
            logger.warning('cache: the server saves snapshots, which are not used: set `save ""`')
        self._run_id = facts.get("run_id", "").encode()
        if run_id != self._run_id:
            self._undelivered = {EVERYTHING: object()}

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
            if server is None or time.monotonic() < self._unused_until:
                return None
            try:
                return await server.execute(*commands)
            except ResponseError as error:
                logger.warning("cache: %s", error)
                return None
            except (RedisError, OSError) as error:
                # Try twice: the connection may be an old one, or this process may be late itself.
                if is_last:
                    self._counts["shared", "failure"] += 1
                    self._unused_until = time.monotonic() + self._retry_after_s
                    is_refusal = isinstance(error, Refusal)
                    self._problem = f"refuses: {error}" if is_refusal else "unreachable"
                    reason = f"{type(error).__name__}: {error}"
                    logger.warning("cache: not used for %g s: %s", self._retry_after_s, reason)
        return None

    def _entry(self, key: str) -> str:
        return self._name("entry", self._version, key)

    def _name(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


def slower(round_trips_s: Collection[float], loads_s: Collection[float]) -> bool:
    """Return whether asking the server usually takes longer than loading, and noticeably long."""
    if not round_trips_s or not loads_s:
        return False
    return median(round_trips_s) > max(SLOW_S, median(loads_s))


def _is_shown(entry: Entry | None, *, accept_stale: bool) -> bool:
    if entry is None:
        return False
    freshness = entry.freshness()
    if freshness is Freshness.STALE_WHILE_REVALIDATE:
        return accept_stale
    return freshness is Freshness.FRESH
