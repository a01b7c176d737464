"""The health of Valkey, and the invalidations that it carries to all workers.

An invalidation deletes the generation of each tag in the server (see `valkey.py`), and publishes
the tags. A worker that has not heard from the server for `TRUST_S` stops trusting its local cache.

The key `run` has the run id of the server that wrote the data. If the connected server has another
one, the data may be an older snapshot, or another server's: everything is invalidated before it is
shown.

No method raises when the server fails: an invalidation is then delivered later, or logged as lost
when the process stops.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from logging import getLogger
from statistics import median
from typing import Any

from redis.exceptions import RedisError, ResponseError

from app.core.cache.store.connection import Command, MultiplexedConnection, Refusal
from app.core.cache.store.local import EVERYTHING, LocalCache
from app.core.settings.cache import CacheSettings

# Seconds between heartbeats, and seconds for which one answer is valid.
HEARTBEAT_S = 0.5
TRUST_S = 1.5
MAX_UNDELIVERED = 10_000
# The longest time that a stopping process spends on undelivered invalidations.
LAST_DELIVERY_S = 3.0
RETRY_S = 0.1
RUN_ID_TTL_S = 24 * 3600
# Major version: `SET` with `NX` and `GET` needs 7.
OLDEST_VERSION = 7
# A round trip below this is always worth it; a longer one only while loads take longer.
SLOW_S = 0.01

logger = getLogger(__name__)


class Server:
    """The one connection to the server, its health, and the messages about invalidations.

    Args:
        local: the local cache of this process, which the messages invalidate.
        counts: reads by level and outcome; failures of the server are counted here.

    Attributes:
        loads_s: seconds of each of the last 15 loads.
        is_slow: whether asking the server takes longer than loading.
    """

    def __init__(self, local: LocalCache, counts: Counter[tuple[str, str]]) -> None:
        self._local = local
        self._counts = counts
        self._connection: MultiplexedConnection | None = None
        self._heart: asyncio.Task[None] | None = None
        # The number of lost connections: messages may be missed during each loss.
        self._losses = 0
        self._prefix = ""
        self._retry_after_s = 0.0
        self._unused_until = 0.0
        # The reason of the last failure.
        self._problem = "unreachable"
        self._run_id = b""
        # Whether the server may have the data of another one, of which nothing is shown.
        self._is_foreign = False
        self._round_trips_s: deque[float] = deque(maxlen=5)
        self.loads_s: deque[float] = deque(maxlen=15)
        self.is_slow = False
        # Tags whose invalidation is not confirmed; shared entries with them are not read. Each
        # value is a new object, by which `_deliver` recognises a repeated invalidation.
        self._undelivered: dict[str, object] = {}

    def open(self, settings: CacheSettings) -> None:
        """Begin to connect and to listen, without waiting."""
        self._prefix = settings.cache_prefix
        self._retry_after_s = settings.cache_retry_after_s
        self._unused_until = 0.0
        self._connection = MultiplexedConnection(
            settings.cache_url.get_secret_value(),
            self.name("invalidated"),
            # MGET of two keys: a cluster refuses it, unless the prefix keeps all keys on one node.
            [("INFO",), ("MGET", self.name("run"), self.name("tag", EVERYTHING))],
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
        if self._connection is not None:
            await self._deliver_the_last()
            await self._connection.close()
            self._connection = None

    async def ping(self) -> bool:
        """Return whether the server answers in time, and accepts writes and messages.

        If its data is another server's, everything is invalidated.
        """
        # With the commands of an invalidation: the server may refuse one of them alone.
        name = self.name("heartbeat")
        replies = await self.attempt(
            ("GETEX", self.name("run"), "EX", RUN_ID_TTL_S), ("DEL", name), ("PUBLISH", name, "")
        )
        if replies is not None and replies[0] != self._run_id and not self._is_foreign:
            self._is_foreign = True
            self._undelivered = {EVERYTHING: object()}
        return replies is not None

    async def state(self) -> str:
        """Return "ok", or the reason why the server is not used."""
        if not await self.ping():
            return self._problem
        if self._is_foreign:
            return "has the data of another server: not read"
        return "slower than the loads: not read" if self.is_slow else "ok"

    @property
    def has_pending(self) -> bool:
        """Whether there are invalidations that the server has not confirmed."""
        return bool(self._undelivered)

    def is_pending(self, tags: Sequence[str]) -> bool:
        """Whether an invalidation of one of these tags is undelivered: no entry may be shown."""
        return self._is_foreign or not self._undelivered.keys().isdisjoint((EVERYTHING, *tags))

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Invalidate tags in all workers, or `EVERYTHING`; later if the server is unavailable."""
        self._undelivered |= dict.fromkeys(tags, object())
        if len(self._undelivered) > MAX_UNDELIVERED:
            self._undelivered = {EVERYTHING: object()}
        await self._deliver()

    async def attempt(self, *commands: Command) -> list[Any] | None:
        """Return the replies; None when the server is unavailable, late, or refuses a command."""
        for is_last in (False, True):
            connection = self._connection
            if connection is None or time.monotonic() < self._unused_until:
                return None
            try:
                return await connection.execute(*commands)
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

    def name(self, *parts: str) -> str:
        """Return the name of a key or channel."""
        return ":".join((self._prefix, *parts))

    async def _deliver(self) -> None:
        """Send the invalidations that the server has not confirmed."""
        if tags := self._undelivered.copy():
            delete = ("DEL", *(self.name("tag", tag) for tag in tags))
            publish = ("PUBLISH", self.name("invalidated"), "\n".join(tags))
            if await self.attempt(delete, publish) is None:
                return
            for tag, invalidation in tags.items():
                # Unless the tag was invalidated again meanwhile.
                if self._undelivered.get(tag) is invalidation:
                    del self._undelivered[tag]
        if self._is_foreign and not self._undelivered:
            # A full server refuses `SET`.
            delete = ("DEL", self.name("tag", EVERYTHING))
            claim: Command = ("SET", self.name("run"), self._run_id, "EX", RUN_ID_TTL_S)
            self._is_foreign = await self.attempt(delete, claim) is None

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
        """Every `HEARTBEAT_S`: ping, deliver, extend `trusted_until`; until cancelled."""
        while True:
            asked = time.monotonic()
            losses = self._losses
            try:
                # The connection listens as long as it is up.
                if await self.ping():
                    self._round_trips_s.append(time.monotonic() - asked)
                    self.is_slow = slower(self._round_trips_s, self.loads_s)
                    await self._deliver()
                    if self._losses == losses:
                        # Replies keep their order: all messages before these have been handled.
                        self._local.trusted_until = asked + TRUST_S
            except Exception:
                logger.exception("cache: the heartbeat failed")
            await asyncio.sleep(HEARTBEAT_S)

    def _on_open(self, replies: list[Any]) -> None:
        """Learn which server has answered, and whose data it has; Refusal if it is too old."""
        info, (run_id, _) = replies
        facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        version = facts.get("redis_version", "unknown")
        if not version[:1].isdecimal() or int(version.partition(".")[0]) < OLDEST_VERSION:
            raise Refusal(f"version {version} is too old: Valkey, or Redis 7, is needed")
        if facts.get("rdb_saves", "0") != "0":
            logger.warning('cache: the server saves snapshots, which are not used: set `save ""`')
        self._run_id = facts.get("run_id", "").encode()
        self._is_foreign = run_id != self._run_id
        if self._is_foreign:
            self._undelivered = {EVERYTHING: object()}

    def _on_message(self, message: bytes) -> None:
        self._local.invalidate(message.decode(errors="replace").split("\n"))

    def _on_loss(self) -> None:
        self._losses += 1
        self._local.trusted_until = 0.0
        self._local.clear()


def slower(round_trips_s: Collection[float], loads_s: Collection[float]) -> bool:
    """Whether the median round trip exceeds `SLOW_S` and the median load; False without either."""
    if not round_trips_s or not loads_s:
        return False
    return median(round_trips_s) > max(SLOW_S, median(loads_s))
