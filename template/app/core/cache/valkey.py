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
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from logging import getLogger
from typing import Any, NamedTuple, TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError, ResponseError

from app.core.cache.entry import Entry, Freshness, decode, encode
from app.core.cache.reads import Cache, Load, Outcome, Read, Tags
from app.core.problems import Unavailable
from app.core.settings.cache import CacheSettings

# Connections of one worker: each is busy for well under a millisecond at a time.
MAX_CONNECTIONS = 16
# Made once: without it each new connection reads redis-py's version from disk, in the event loop.
DRIVER = DriverInfo()
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

T = TypeVar("T")

logger = getLogger(__name__)


class Found(NamedTuple):
    """An entry, and the generations of its tags; None when the server does not say."""

    entry: Entry | None
    generations: bytes | None


class ValkeyCache(Cache):
    """No method raises when the server fails: a read then loads, and a write is told later."""

    def __init__(self) -> None:
        super().__init__()
        self._client: Redis | None = None
        self._listener: asyncio.Task[None] | None = None
        self._prefix = ""
        self._retry_after_s = 0.0
        self._closed_until = 0.0
        # Invalidations that the server has not confirmed: what it has of them is not shown here.
        self._undelivered: dict[str, object] = {}
        self._reported: dict[tuple[str, str], int] = {}

    async def open(self, settings: CacheSettings) -> None:
        """Make the client, and begin to listen; an ill server delays nothing."""
        await super().open(settings)
        self._prefix = settings.cache_prefix
        self._retry_after_s = settings.cache_retry_after_s
        self._closed_until = 0.0
        self._client = Redis.from_pool(
            BlockingConnectionPool.from_url(
                settings.cache_url.get_secret_value(),
                max_connections=MAX_CONNECTIONS,
                timeout=settings.cache_timeout_s,
                socket_timeout=settings.cache_timeout_s,
                socket_connect_timeout=settings.cache_timeout_s,
                retry=Retry(NoBackoff(), 0),
                driver_info=DRIVER,
            )
        )
        self.near.trusted_until = 0.0
        self._listener = asyncio.create_task(self._listen(self._client))

    async def close(self) -> None:
        """Stop loading and listening, and close all connections."""
        await super().close()
        client, self._client = self._client, None
        if self._listener is not None:
            # The client can lose a cancellation while it connects: then it ends by itself.
            self._listener.cancel()
            with suppress(asyncio.CancelledError):
                await self._listener
            self._listener = None
        if client is not None:
            await client.aclose()

    async def ping(self) -> bool:
        """Whether the server answers in time."""
        return await self._attempt(lambda client: client.ping()) is not None

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
        concerned = (EVERYTHING, *tags)
        names = [self._name("entry", key), *(self._name("tag", tag) for tag in concerned)]
        values: list[Any] | None = await self._attempt(lambda client: client.mget(names))
        if values is None:
            return Found(None, None)
        raw, *generations = values
        missing = [name for name, known in zip(names[1:], generations, strict=True) if not known]
        if missing:
            made = await self._attempt(lambda client: _make_generations(client, missing))
            if made is None:
                return Found(None, None)
            generations = [known or made.pop(0) for known in generations]
        if not self._undelivered.keys().isdisjoint(concerned):
            return Found(None, None)
        joined = b"".join(generations)
        return Found(_unwrap(raw, joined) if raw else None, joined)

    @property
    def pending(self) -> bool:
        """Whether there are invalidations that the server has not confirmed."""
        return bool(self._undelivered)

    async def stored(self, key: str) -> Entry | None:
        """What the server keeps under the key, invalidated or not."""
        name = self._name("entry", key)
        raw: Any = await self._attempt(lambda client: client.get(name))
        if raw is None or len(raw) < _COUNT.size:
            return None
        (generations_bytes,) = _COUNT.unpack_from(raw)
        return decode(raw[_COUNT.size + generations_bytes :])

    async def counted(self) -> dict[str, int]:
        """How often each outcome was, by level, in all workers since the server started."""
        name = self._name("counts")
        found: Any = await self._attempt(lambda client: client.hgetall(name)) or {}
        return {outcome.decode(): int(count) for outcome, count in sorted(found.items())}

    async def _find_or_load(
        self, key: str, tags: Tags, load: Load, *, keep: bool, refresh: bool
    ) -> Read:
        sequence = self.near.sequence
        found = await self.find(key, tags)
        began = time.monotonic()
        waited = False
        while True:
            if read := self._shown(key, tags, load, found.entry, sequence, refresh=refresh):
                return read._replace(outcome=Outcome.COLLAPSED) if waited else read
            taken = time.monotonic()
            if found.generations is None or taken > began + LEASE_S:
                break
            if await self._take_lease(key) is not False:
                break
            waited = True
            await asyncio.sleep(LEASE_POLL_S)
            found = await self.find(key, tags)
        stored = False
        try:
            loaded = await self._load(load)
            if keep and loaded.keep:
                stored = self.near.put(key, tags, loaded.entry, sequence)
        except Unavailable:
            await self._finish(key, None, None, taken)
            spare = found.entry
            if spare is None or spare.freshness(time.time()) is Freshness.DEAD:
                raise
            self.counts["shared", "error"] += 1
            return Read(spare, Outcome.ERROR, stored=True)
        except BaseException:
            await self._finish(key, None, None, taken)
            raise
        entry = loaded.entry if keep and loaded.keep else None
        stored |= await self._finish(key, entry, found.generations, taken)
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

    async def _take_lease(self, key: str) -> bool | None:
        """Whether this worker is the one to load; None when the server does not say."""

        async def take(client: Redis) -> bool:
            name, lifetime_ms = self._name("lease", key), int(LEASE_S * 1000)
            return bool(await client.set(name, b"", nx=True, px=lifetime_ms))

        return await self._attempt(take)

    async def _finish(
        self, key: str, entry: Entry | None, generations: bytes | None, taken: float
    ) -> bool:
        """Store what was loaded, if anything, and end the lease; says whether it is stored."""
        kept = entry is not None and generations is not None

        async def finish(client: Redis) -> bool:
            async with client.pipeline(transaction=False) as pipeline:
                if entry is not None and generations is not None:
                    lifetime_ms = max(1, int(entry.lifetime_s * 1000))
                    value = _wrap(entry, generations)
                    pipeline.set(self._name("entry", key), value, px=lifetime_ms)
                # Later than that, it may be somebody else's.
                if time.monotonic() < taken + LEASE_S:
                    pipeline.delete(self._name("lease", key))
                await pipeline.execute()
            return kept

        return bool(await self._attempt(finish))

    async def _deliver(self) -> None:
        """Give the server what it has not confirmed."""
        tags = self._undelivered.copy()
        if not tags:
            return

        async def announce(client: Redis) -> bool:
            async with client.pipeline(transaction=True) as pipeline:
                # To delete takes no memory, so that a server that is full does not refuse it.
                pipeline.delete(*(self._name("tag", tag) for tag in tags))
                pipeline.publish(self._name("invalidated"), "\n".join(tags))
                await pipeline.execute()
            return True

        if await self._attempt(announce):
            for tag, invalidation in tags.items():
                # One that came meanwhile is not among what was delivered.
                if self._undelivered.get(tag) is invalidation:
                    del self._undelivered[tag]

    async def _listen(self, client: Redis) -> None:
        """Hear of invalidations until the cache is closed."""
        while self._client is client:
            try:
                async with client.pubsub() as channel:
                    await channel.subscribe(self._name("invalidated"))
                    await self._hear(client, channel)
            except (RedisError, OSError) as error:
                logger.debug("cache: no invalidations are heard of: %r", error)
            except Exception:
                logger.exception("cache: no invalidations are heard of")
            finally:
                # What was said meanwhile is lost.
                self.near.trusted_until = 0.0
                self.near.clear()
            await asyncio.sleep(HEARTBEAT_S)

    async def _hear(self, client: Redis, channel: PubSub) -> None:
        while self._client is client:
            asked = time.monotonic()
            await channel.ping()
            answered = False
            while not answered or time.monotonic() < asked + HEARTBEAT_S:
                if time.monotonic() > asked + TRUST_S:
                    raise TimeoutError("the server does not answer")
                message = await channel.get_message(timeout=HEARTBEAT_S / 2)
                match message and message["type"]:
                    case "message":
                        self._heard(message["data"].decode().split("\n"))
                    case "pong":
                        # Whatever was said before the question has been heard.
                        self.near.trusted_until = asked + TRUST_S
                        answered = True
            await self._deliver()
            await self._report()

    def _heard(self, tags: Sequence[str]) -> None:
        if EVERYTHING in tags:
            self.near.clear()
        else:
            self.near.invalidate(tags)

    async def _report(self) -> None:
        """Add what was counted here to the counts of all workers."""
        new = {name: count - self._reported.get(name, 0) for name, count in self.counts.items()}

        async def add(client: Redis) -> bool:
            async with client.pipeline(transaction=False) as pipeline:
                for (level, outcome), count in new.items():
                    pipeline.hincrby(self._name("counts"), f"{level} {outcome}", count)
                await pipeline.execute()
            return True

        if any(new.values()) and await self._attempt(add):
            for name, count in new.items():
                self._reported[name] = self._reported.get(name, 0) + count

    async def _attempt(self, operation: Callable[[Redis], Awaitable[T]]) -> T | None:
        if self._client is None or time.monotonic() < self._closed_until:
            return None
        try:
            return await operation(self._client)
        except ResponseError as error:
            # It answered, in time: this one operation is refused, for example for want of memory.
            logger.warning("cache: %s", error)
        except (RedisError, OSError) as error:
            self.counts["shared", "failure"] += 1
            self._closed_until = time.monotonic() + self._retry_after_s
            reason = f"{type(error).__name__}: {error}"
            logger.warning("cache: left alone for %g s: %s", self._retry_after_s, reason)
        return None

    def _name(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


async def _make_generations(client: Redis, names: Sequence[str]) -> list[bytes]:
    """New generations, or those that others have made meanwhile."""
    new = [os.urandom(GENERATION_BYTES) for _ in names]
    async with client.pipeline(transaction=False) as pipeline:
        for name, generation in zip(names, new, strict=True):
            pipeline.set(name, generation, nx=True, get=True, ex=GENERATION_S)
        others: list[Any] = await pipeline.execute()
    return [other or own for other, own in zip(others, new, strict=True)]


_COUNT = struct.Struct("!H")


def _wrap(entry: Entry, generations: bytes) -> bytes:
    return _COUNT.pack(len(generations)) + generations + encode(entry)


def _unwrap(raw: bytes, generations: bytes) -> Entry | None:
    """The entry, if it was loaded in these generations."""
    expected = _COUNT.pack(len(generations)) + generations
    return decode(raw[len(expected) :]) if raw.startswith(expected) else None
