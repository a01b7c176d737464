"""Reads through the cache: what is there is shown, what is not is loaded, once for all who wait."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from enum import StrEnum
from logging import getLogger
from time import time
from typing import NamedTuple

from app.core.cache.entry import Entry, Freshness
from app.core.cache.near import Near
from app.core.cache.settings import CacheSettings
from app.core.http.problems import Unavailable

# Keeps values that were loaded together from ending together.
JITTER = 0.1

logger = getLogger(__name__)


class Outcome(StrEnum):
    HIT = "hit"
    # Shown while a refresh runs.
    STALE = "stale"
    MISS = "miss"
    # Loaded by somebody else meanwhile.
    COLLAPSED = "collapsed"
    # Shown because it could not be loaded.
    ERROR = "error"


class Read(NamedTuple):
    """An entry, where it came from, and whether it is in the cache now."""

    entry: Entry
    outcome: Outcome
    stored: bool


class Loaded(NamedTuple):
    """What a load made; without `keep`, only for those who wait for it now."""

    entry: Entry
    keep: bool = True


class Unshareable(Exception):
    """What was loaded was for its own caller only; everybody else loads for themselves."""


Load = Callable[[], Awaitable[Loaded]]
Tags = tuple[str, ...]


class Cache:
    """Entries of this process.

    Whatever loads an entry, the invalidations that matter are those after it began.
    """

    def __init__(self) -> None:
        self.near = Near()
        self.ttl_s = 0.0
        # How often each outcome was, by the level that gave it.
        self.counts: Counter[tuple[str, str]] = Counter()
        # By key and the last invalidation: who comes after one waits for none from before.
        self._flights: dict[tuple[str, int, bool], asyncio.Task[Read]] = {}

    async def open(self, settings: CacheSettings) -> None:
        """Begin to keep entries."""
        self.ttl_s = settings.cache_ttl_s
        self.near.open(max_bytes=settings.cache_max_bytes, max_entries=settings.cache_max_entries)

    async def close(self) -> None:
        """Forget everything, and stop what is being loaded."""
        flights = list(self._flights.values())
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self.near.clear()

    def peek(self, key: str, tags: Tags) -> Entry | None:
        """The entry, if this process holds it and it is fresh."""
        entry = self.near.get(key, tags)
        if entry is None or entry.freshness(time()) is not Freshness.FRESH:
            return None
        self.counts["near", "hit"] += 1
        return entry

    async def read(self, key: str, tags: Tags, load: Load, *, keep: bool = True) -> Read:
        """The entry, loaded if need be; `load` runs in a task that outlives an impatient caller.

        Args:
            tags: what `invalidate` may name; for one key they are always the same.
            keep: without it, what this call loads is not stored.

        Raises:
            Unshareable: when `load` did.
        """
        entry = self.near.get(key, tags)
        if entry is not None:
            match entry.freshness(time()):
                case Freshness.FRESH:
                    self.counts["near", "hit"] += 1
                    return Read(entry, Outcome.HIT, stored=True)
                case Freshness.STALE:
                    self.counts["near", "stale"] += 1
                    self._refresh(key, tags, load)
                    return Read(entry, Outcome.STALE, stored=True)
        flight, leads = self._join(key, tags, load, keep=keep)
        try:
            read = await asyncio.shield(flight)
        except Unshareable:
            if leads:
                raise
            return Read((await load()).entry, Outcome.MISS, stored=False)
        except Unavailable:
            if entry is None:
                raise
            self.counts["near", "error"] += 1
            return Read(entry, Outcome.ERROR, stored=True)
        if leads or read.outcome is not Outcome.MISS:
            return read
        self.counts["near", "collapsed"] += 1
        return read._replace(outcome=Outcome.COLLAPSED)

    async def invalidate(self, *tags: str) -> None:
        """Show nothing any more that carries one of these tags; call it after the commit."""
        self.near.invalidate(tags)

    async def clear(self) -> None:
        """Show nothing any more of what there is."""
        self.near.clear()

    async def _find_or_load(
        self, key: str, tags: Tags, load: Load, *, keep: bool, refresh: bool
    ) -> Read:
        """What is not in this process; a `refresh` wants it fresh."""
        sequence = self.near.sequence
        loaded = await self._load(load)
        stored = keep and loaded.keep and self.near.put(key, tags, loaded.entry, sequence)
        return Read(loaded.entry, Outcome.MISS, stored)

    async def _load(self, load: Load) -> Loaded:
        self.counts["load", "miss"] += 1
        loaded = await load()
        loaded.entry.ttl_s *= random.uniform(1 - JITTER, 1)  # noqa: S311 - no secret
        return loaded

    def _join(
        self, key: str, tags: Tags, load: Load, *, keep: bool = True, refresh: bool = False
    ) -> tuple[asyncio.Task[Read], bool]:
        """The task that loads the entry, and whether it begins now."""
        newest = self.near.newest(tags)
        # Everybody may wait for a refresh, which takes nothing that is stale.
        name = (key, newest, True)
        if name not in self._flights and not refresh:
            name = (key, newest, False)
        if name in self._flights:
            return self._flights[name], False
        flight = asyncio.create_task(
            self._find_or_load(key, tags, load, keep=keep, refresh=refresh)
        )
        self._flights[name] = flight
        flight.add_done_callback(lambda done: self._landed(name, done))
        return flight, True

    def _refresh(self, key: str, tags: Tags, load: Load) -> None:
        self._join(key, tags, load, refresh=True)

    def _landed(self, name: tuple[str, int, bool], flight: asyncio.Task[Read]) -> None:
        del self._flights[name]
        # Whoever waits raises it too; nobody may wait for a refresh.
        if not flight.cancelled() and (error := flight.exception()):
            logger.debug("cache: loading %s: %r", name[0], error)
