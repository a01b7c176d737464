"""A cache in Valkey or Redis, shared by all workers; when it is ill, the service works without it.

In front of it each worker keeps entries of its own. An invalidation ends the generation of each tag
in the server and tells all workers in the same step; a worker that has not heard from the server
for `TRUST_S` shows nothing of its own any more.

An entry carries the generations that its tags had before it was loaded, and is shown while they
are the same. A generation is a random number that whoever misses it makes: what the server evicts,
entries or generations, can so only become a miss.
"""

import asyncio
import os
import struct
import time
from collections.abc import Sequence
from contextlib import suppress
from logging import getLogger
from typing import Any, NamedTuple

from redis.exceptions import RedisError, ResponseError

from app.core.cache.connection import Command, MultiplexedConnection
from app.core.cache.entry import Entry, Freshness, decode, encode
from app.core.cache.reads import Cache, Load, Outcome, Read, Tags
from app.core.cache.settings import CacheSettings
from app.core.http.problems import Unavailable

# How often a worker asks whether it still hears of invalidations, and how long the answer counts.
HEARTBEAT_S = 0.5
TRUST_S = 1.5
# The one of all workers that loads an entry has so long, before the others do not wait any more.
LEASE_S = 3.0
LEASE_POLL_S = 0.01
# Longer than entries live; when it ends, a read is a miss.
GENERATION_S = 24 * 3600
GENERATION_BYTES = 8
# The tag of everything, for `clear`.
EVERYTHING = "*"
MAX_UNDELIVERED = 10_000

logger = getLogger(__name__)


class Found(NamedTuple):
    """An entry, the generations of its tags, and the names of those that are yet to be made."""

    entry: Entry | None
    # None when the server does not say.
    generations: bytes | None
    missing: Sequence[str] = ()


class ValkeyCache(Cache):
    """No method raises when the server fails: a read then loads, and a write is told later."""

    def __init__(self) -> None:
        super().__init__()
        self._server: MultiplexedConnection | None = None
        self._heart: asyncio.Task[None] | None = None
        # How often messages may have been missed.
        self._losses = 0
        self._prefix = ""
        # Another release's entries are not shown; invalidations are for all.
        self._version = ""
        self._retry_after_s = 0.0
        self._closed_until = 0.0
        # Invalidations that the server has not confirmed: what it has of them is not shown here.
        self._undelivered: dict[str, object] = {}
        self._reported: dict[tuple[str, str], int] = {}

    async def open(self, settings: CacheSettings) -> None:
        """Begin to listen; an ill server delays nothing."""
        await super().open(settings)
        self._prefix = settings.cache_prefix
        self._version = settings.cache_version
        self._retry_after_s = settings.cache_retry_after_s
        self._closed_until = 0.0
        self._server = MultiplexedConnection(
            settings.cache_url.get_secret_value(),
            self._name("invalidated"),
            timeout_s=settings.cache_timeout_s,
            told=self._told,
            lost=self._lost,
        )
        self.near.trusted_until = 0.0
        self._heart = asyncio.create_task(self._beat())

    async def close(self) -> None:
        """Stop loading and listening, and close the connection."""
        await super().close()
        if self._heart is not None:
            self._heart.cancel()
            with suppress(asyncio.CancelledError):
                await self._heart
            self._heart = None
        server, self._server = self._server, None
        if server is not None:
            await server.close()

    async def ping(self) -> bool:
        """Whether the server answers in time."""
        return await self._attempt(("PING",)) is not None

    async def invalidate(self, *tags: str) -> None:
        """As `Cache.invalidate`, in all workers; a server that is away is told later."""
        self.near.invalidate(tags)
        self._undelivered |= dict.fromkeys(tags, object())
        if len(self._undelivered) > MAX_UNDELIVERED:
            self._undelivered = {EVERYTHING: object()}
        await self._deliver()

    async def clear(self) -> None:
        """As `Cache.clear`, in all workers."""
        self.near.clear()
        self._undelivered = {EVERYTHING: object()}
        await self._deliver()

    async def find(self, key: str, tags: Tags) -> Found:
        """What the server has."""
        names = self._names(key, tags)
        replies = await self._attempt(("MGET", *names))
        return Found(None, None) if replies is None else self._found(names, replies[0], tags)

    @property
    def pending(self) -> bool:
        """Whether there are invalidations that the server has not confirmed."""
        return bool(self._undelivered)

    async def stored(self, key: str) -> Entry | None:
        """What the server keeps under the key, invalidated or not."""
        replies = await self._attempt(("GET", self._name("entry", self._version, key)))
        raw = replies[0] if replies else None
        if raw is None or len(raw) < _COUNT.size:
            return None
        (generations_bytes,) = _COUNT.unpack_from(raw)
        return decode(raw[_COUNT.size + generations_bytes :])

    async def counted(self) -> dict[str, int]:
        """How often each outcome was, by level, in all workers since the server started."""
        name = self._name("counts")
        replies = await self._attempt(("HGETALL", name))
        found: dict[bytes, bytes] = replies[0] if replies else {}
        return {outcome.decode(): int(count) for outcome, count in sorted(found.items())}

    async def _find_or_load(
        self, key: str, tags: Tags, load: Load, *, keep: bool, refresh: bool
    ) -> Read:
        sequence = self.near.sequence
        found = await self.find(key, tags)
        lease = os.urandom(GENERATION_BYTES)
        # By the monotonic clock; 0 while somebody else has the lease, or nobody.
        lease_until = 0.0
        give_up_at = time.monotonic() + LEASE_S
        waited = False
        while True:
            if read := self._shown(key, tags, load, found.entry, sequence, refresh=refresh):
                if not waited and not lease_until:
                    return read
                await self._finish(key, None, None, lease_until)
                return read._replace(outcome=Outcome.COLLAPSED)
            if lease_until or found.generations is None or time.monotonic() > give_up_at:
                break
            claimed_at = time.monotonic()
            mine, found = await self._claim(key, tags, lease, found.missing)
            if mine:
                lease_until = claimed_at + LEASE_S
            elif found.generations is not None:
                waited = True
                await asyncio.sleep(LEASE_POLL_S)
        entry = None
        stored = False
        try:
            loaded = await self._load(load)
            if keep and loaded.keep:
                entry = loaded.entry
                stored = self.near.put(key, tags, entry, sequence)
        except Unavailable:
            spare = found.entry
            if spare is None or spare.freshness(time.time()) is Freshness.DEAD:
                raise
            self.counts["shared", "error"] += 1
            return Read(spare, Outcome.ERROR, stored=True)
        finally:
            stored |= await self._finish(key, entry, found.generations, lease_until)
        return Read(loaded.entry, Outcome.MISS, stored)

    def _shown(
        self,
        key: str,
        tags: Tags,
        load: Load,
        entry: Entry | None,
        sequence: int,
        *,
        refresh: bool,
    ) -> Read | None:
        """The server's entry as an answer, if it is good enough."""
        if entry is None:
            return None
        match entry.freshness(time.time()):
            case Freshness.FRESH:
                outcome = Outcome.HIT
            case Freshness.STALE if not refresh:
                outcome = Outcome.STALE
                self._refresh(key, tags, load)
            case _:
                return None
        self.near.put(key, tags, entry, sequence)
        self.counts["shared", outcome.value] += 1
        return Read(entry, outcome, stored=True)

    async def _claim(
        self, key: str, tags: Tags, lease: bytes, missing: Sequence[str]
    ) -> tuple[bool, Found]:
        """Whether this worker is the one to load, and what the server has by then.

        In one round trip: who takes the lease after another has let go of it finds the entry.
        """
        names = self._names(key, tags)
        lifetime_ms = int(LEASE_S * 1000)
        replies = await self._attempt(
            # With GET, so that a claim that is repeated knows its own.
            ("SET", self._lease(key), lease, "NX", "GET", "PX", lifetime_ms),
            *(
                ("SET", name, os.urandom(GENERATION_BYTES), "NX", "EX", GENERATION_S)
                for name in missing
            ),
            ("MGET", *names),
        )
        if replies is None:
            return False, Found(None, None)
        return replies[0] in (None, lease), self._found(names, replies[-1], tags)

    def _names(self, key: str, tags: Tags) -> list[str]:
        concerned = (EVERYTHING, *tags)
        return [
            self._name("entry", self._version, key),
            *(self._name("tag", tag) for tag in concerned),
        ]

    def _found(self, names: Sequence[str], values: Sequence[Any], tags: Tags) -> Found:
        if not self._undelivered.keys().isdisjoint((EVERYTHING, *tags)):
            return Found(None, None)
        raw, *generations = values
        if missing := [
            name for name, known in zip(names[1:], generations, strict=True) if not known
        ]:
            return Found(None, b"", missing)
        joined = b"".join(generations)
        return Found(_unwrap(raw, joined) if raw else None, joined)

    async def _finish(
        self, key: str, entry: Entry | None, generations: bytes | None, lease_until: float
    ) -> bool:
        """Store what was loaded, if anything, and end the lease; says whether it is stored."""
        commands: list[Command] = []
        is_storable = entry is not None and generations is not None
        if entry is not None and generations is not None:
            name = self._name("entry", self._version, key)
            lifetime_ms = max(1, int(entry.lifetime_s * 1000))
            commands.append(("SET", name, _wrap(entry, generations), "PX", lifetime_ms))
        # Later than that, it may be somebody else's.
        if time.monotonic() < lease_until:
            commands.append(("DEL", self._lease(key)))
        if not commands:
            return False
        return await self._attempt(*commands) is not None and is_storable

    async def _deliver(self) -> None:
        """Give the server what it has not confirmed."""
        tags = self._undelivered.copy()
        if not tags:
            return

        done = await self._attempt(
            ("MULTI",),
            # To delete takes no memory, so that a server that is full does not refuse it.
            ("DEL", *(self._name("tag", tag) for tag in tags)),
            ("PUBLISH", self._name("invalidated"), "\n".join(tags)),
            ("EXEC",),
        )
        if done is not None:
            for tag, invalidation in tags.items():
                # One that came meanwhile is not among what was delivered.
                if self._undelivered.get(tag) is invalidation:
                    del self._undelivered[tag]

    async def _beat(self) -> None:
        """Make sure that invalidations are heard of, until the cache is closed."""
        while True:
            asked = time.monotonic()
            losses = self._losses
            try:
                # The connection listens as long as it is up.
                if await self._attempt(("PING",)) is not None and self._losses == losses:
                    # Whatever was said before the question has been heard.
                    self.near.trusted_until = asked + TRUST_S
                    await self._deliver()
                    await self._report()
            except Exception:
                logger.exception("cache: no invalidations are heard of")
            await asyncio.sleep(HEARTBEAT_S)

    def _told(self, message: bytes) -> None:
        tags = message.decode(errors="replace").split("\n")
        if EVERYTHING in tags:
            self.near.clear()
        else:
            self.near.invalidate(tags)

    def _lost(self) -> None:
        self._losses += 1
        self.near.trusted_until = 0.0
        self.near.clear()

    async def _report(self) -> None:
        """Add what was counted here to the counts of all workers."""
        new = {name: count - self._reported.get(name, 0) for name, count in self.counts.items()}
        name = self._name("counts")
        added = [
            ("HINCRBY", name, f"{level} {outcome}", count)
            for (level, outcome), count in new.items()
            if count
        ]
        if added and await self._attempt(*added) is not None:
            for counted, count in new.items():
                self._reported[counted] = self._reported.get(counted, 0) + count

    async def _attempt(self, *commands: Command) -> list[Any] | None:
        """The replies; None when the server is away, late or refuses."""
        for last in (False, True):
            server = self._server
            if server is None or time.monotonic() < self._closed_until:
                return None
            try:
                return await server.execute(*commands)
            except ResponseError as error:
                # It replied, in time: this one operation is refused, for want of memory say.
                logger.warning("cache: %s", error)
                return None
            except (RedisError, OSError) as error:
                # Once more: the connection may have been an old one, or this process late itself.
                if last:
                    self.counts["shared", "failure"] += 1
                    self._closed_until = time.monotonic() + self._retry_after_s
                    reason = f"{type(error).__name__}: {error}"
                    logger.warning("cache: left alone for %g s: %s", self._retry_after_s, reason)
        return None

    def _lease(self, key: str) -> str:
        return self._name("lease", self._version, key)

    def _name(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


_COUNT = struct.Struct("!H")


def _wrap(entry: Entry, generations: bytes) -> bytes:
    return _COUNT.pack(len(generations)) + generations + encode(entry)


def _unwrap(raw: bytes, generations: bytes) -> Entry | None:
    """The entry, if it was loaded in these generations."""
    expected = _COUNT.pack(len(generations)) + generations
    return decode(raw[len(expected) :]) if raw.startswith(expected) else None
