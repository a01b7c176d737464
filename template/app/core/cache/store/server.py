"""The health of Valkey, and the invalidations that it carries to all workers.

An invalidation deletes the generation of each tag in the server (see `valkey.py`), and publishes
the tags. A worker that has not heard from the server for `TRUST_S` stops trusting its local cache.

The key `run` has the run id of the server that wrote the data. If the connected server has another
one, the data may be an older snapshot, or another server's: everything is invalidated before it is
shown. The key also expires when no worker has been heard for `TRUST_S`: the first worker that
connects again then invalidates everything, because the others may still hold invalidations. A
worker whose event loop stood still for so long has lost nothing while its connection stands.

No method raises when the server fails: an invalidation is then delivered later, or logged as lost
when the process stops.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from contextlib import suppress
from logging import getLogger
from math import inf
from statistics import median
from typing import Any

from redis.exceptions import ConnectionError, RedisError, ResponseError

from app.core.cache.store.connection import Command, Connection, Refusal, connect
from app.core.cache.store.local import EVERYTHING, LocalCache
from app.core.settings.cache import CacheSettings

# Seconds between heartbeats, and seconds for which one answer is valid.
HEARTBEAT_S = 0.5
TRUST_S = 1.5
MAX_UNDELIVERED = 10_000
# The longest time that a stopping process spends on undelivered invalidations.
LAST_DELIVERY_S = 3.0
RETRY_S = 0.1
RUN_ID_MS = int(TRUST_S * 1000)
# After the stop of a worker that has delivered everything: the entries outlive a restart.
RUN_ID_STOPPED_S = 24 * 3600
# Major version: `SET` with `NX` and `GET` needs 7.
OLDEST_VERSION = 7
# A round trip below this is always worth it; a longer one only while loads take longer.
SLOW_S = 0.01

logger = getLogger(__name__)


class Server:
    """The connection to the server, its health, and the messages about invalidations.

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
        # None while the server is not used, for the reason `_problem`.
        self._connection: Connection | None = None
        self._problem = "unreachable"
        self._keeper: asyncio.Task[None] | None = None
        # Cleared by a loss until `_keep` has tried to connect again.
        self._has_tried = asyncio.Event()
        self._settings: CacheSettings | None = None
        self._prefix = ""
        self._run_id = b""
        # Whether the server may have the data of another one, of which nothing is shown.
        self._is_foreign = False
        # The time of the last question for the key `run`.
        self._asked_s = -inf
        self._round_trips_s: deque[float] = deque(maxlen=5)
        self.loads_s: deque[float] = deque(maxlen=15)
        self.is_slow = False
        # Tags whose invalidation is not confirmed; shared entries with them are not read. Each
        # value is a new object, by which `_deliver` recognises a repeated invalidation.
        self._undelivered: dict[str, object] = {}

    async def open(self, settings: CacheSettings) -> None:
        """Connect, and stay connected; return after the first attempt, whatever its result."""
        self._settings = settings
        self._prefix = settings.cache_prefix
        self._local.trusted_until = 0.0
        self._has_tried = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep(settings))
        await self._has_tried.wait()

    async def close(self) -> None:
        """Deliver the last invalidations, and close the connection."""
        if self._keeper is None or self._settings is None:
            return
        while not self._keeper.done():
            # More than once: redis-py can lose a cancellation.
            self._keeper.cancel()
            await asyncio.wait([self._keeper], timeout=RETRY_S)
        await self._deliver_the_last(self._settings)
        if not self._undelivered:
            await self.attempt(("EXPIRE", self.name("run"), RUN_ID_STOPPED_S))
        if connection := self._connection:
            connection.end(ConnectionError("closed"))
            await connection.ended
        # Nothing waits for a next connection.
        self._has_tried.set()

    @property
    def is_up(self) -> bool:
        """Whether the server accepts invalidations, and this process hears of all of them."""
        return self._connection is not None and time.monotonic() < self._local.trusted_until

    @property
    def state(self) -> str:
        """ "ok", or the reason why the server is not used."""
        if not self.is_up:
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
        """Invalidate tags in all workers, or `EVERYTHING`; later if the server is unavailable.

        After the loss of a connection, wait up to `CACHE_TIMEOUT_S` for the next one.
        """
        new = dict.fromkeys(tags, object())
        self._undelivered |= new
        if len(self._undelivered) > MAX_UNDELIVERED:
            new = {EVERYTHING: object()}
            self._undelivered = new.copy()
        # Without the tags of other callers, which are on their way.
        if not await self._deliver(new) and self._settings is not None:
            # `_keep` delivers before it sets the event.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.cache_timeout_s):
                    await self._has_tried.wait()

    async def attempt(self, *commands: Command) -> list[Any] | None:
        """Return the replies; None when the server is unavailable, late, or refuses a command."""
        if self._connection is None:
            return None
        try:
            return await self._connection.execute(*commands)
        except RedisError as error:
            _log(error)
        return None

    def send(self, *commands: Command) -> bool:
        """Send commands, whose failure is only logged; False when the server is away or behind."""
        if self._connection is None or self._connection.is_behind:
            return False
        try:
            replies = self._connection.execute(*commands)
        except RedisError:
            return False
        replies.add_done_callback(lambda done: _log(done.exception()))
        return True

    def name(self, *parts: str) -> str:
        """Return the name of a key or channel."""
        return ":".join((self._prefix, *parts))

    async def _keep(self, settings: CacheSettings) -> None:
        """Connect, and send a heartbeat every `HEARTBEAT_S`; connect again after a failure."""
        resumed = -inf
        while True:
            began, was_up = time.monotonic(), False
            try:
                connection = await self._connect(settings)
                while connection.error is None:
                    await self._beat(connection)
                    was_up = connection.error is None
                    self._has_tried.set()
                    await asyncio.wait([connection.ended], timeout=HEARTBEAT_S)
                reason: Exception = connection.error
            except Exception as error:
                reason = error
                if self._connection is not None:
                    self._connection.end(ConnectionError(str(error)))
            self._counts["shared", "failure"] += 1
            self._problem = f"refuses: {reason}" if isinstance(reason, Refusal) else "unreachable"
            # A lost connection is made again at once, but not again and again: heartbeats may
            # succeed where other commands fail.
            now, interval_s = time.monotonic(), settings.cache_retry_after_s
            pause_s = max(RETRY_S, began + interval_s - now)
            if was_up and now - resumed > interval_s:
                pause_s = 0.0
            else:
                self._has_tried.set()
            logger.warning(
                "cache: %s: %s: trying again in %.1f s", type(reason).__name__, reason, pause_s
            )
            await asyncio.sleep(pause_s)
            resumed = time.monotonic()

    async def _connect(self, settings: CacheSettings) -> Connection:
        """Return a connection that listens, to a server that is new enough."""
        timeout_s = settings.cache_timeout_s
        writer = await connect(settings.cache_url.get_secret_value(), timeout_s=timeout_s)
        connection = Connection(
            writer, timeout_s=timeout_s, on_message=self._heard, on_end=self._lost
        )
        try:
            connection.subscribe(self.name("invalidated"))
            # MGET of two keys: a cluster refuses it, unless the prefix keeps all keys on one node.
            names = self.name("run"), self.name("tag", EVERYTHING)
            self._asked_s = time.monotonic()
            info, (run_id, _) = await connection.execute(("INFO",), ("MGET", *names))
            self._run_id = run_id_of(info)
            self._check_owner(run_id)
        except BaseException:
            connection.end(ConnectionError("closed"))
            raise
        if connection.error is not None:
            # It ended in the turn of its last reply.
            raise connection.error
        self._connection = connection
        return connection

    async def _beat(self, connection: Connection) -> None:
        """Check that the server answers, and accepts writes and messages; deliver; trust it."""
        asked = time.monotonic()
        has_stood_still, self._asked_s = asked - self._asked_s > TRUST_S, asked
        # The commands of an invalidation: the server may refuse one of them alone.
        name = self.name("heartbeat")
        (run_id, *_) = await connection.execute(
            ("GETEX", self.name("run"), "PX", RUN_ID_MS), ("DEL", name), ("PUBLISH", name, "")
        )
        self._round_trips_s.append(time.monotonic() - asked)
        self.is_slow = slower(self._round_trips_s, self.loads_s)
        if run_id is None and has_stood_still and await self.attempt(self._claim()) is not None:
            run_id = self._run_id
        self._check_owner(run_id)
        await self._catch_up()
        if connection.error is None:
            # Replies keep their order: all messages before these have been handled.
            self._local.trusted_until = asked + TRUST_S

    def _check_owner(self, run_id: bytes | None) -> None:
        """Invalidate everything if the data is not this server's."""
        if run_id != self._run_id and not self._is_foreign:
            self._is_foreign = True
            self._undelivered = {EVERYTHING: object()}

    def _heard(self, message: bytes) -> None:
        self._local.invalidate(message.decode(errors="replace").split("\n"))

    def _lost(self) -> None:
        """Show nothing of this process until the next heartbeat: messages may be missed."""
        self._connection = None
        self._has_tried.clear()
        self._local.trusted_until = 0.0
        self._local.clear()

    async def _deliver(self, tags: dict[str, object]) -> bool:
        """Send these invalidations; return whether the server has confirmed them."""
        delete = ("DEL", *(self.name("tag", tag) for tag in tags))
        publish = ("PUBLISH", self.name("invalidated"), "\n".join(tags))
        if await self.attempt(delete, publish) is None:
            return False
        for tag, invalidation in tags.items():
            # Unless the tag was invalidated again meanwhile.
            if self._undelivered.get(tag) is invalidation:
                del self._undelivered[tag]
        return True

    async def _catch_up(self) -> None:
        """Send all invalidations that the server has not confirmed, and take its data over."""
        if self._undelivered and not await self._deliver(self._undelivered.copy()):
            return
        if self._is_foreign and not self._undelivered:
            # A full server refuses `SET`.
            delete = ("DEL", self.name("tag", EVERYTHING))
            self._is_foreign = await self.attempt(delete, self._claim()) is None

    def _claim(self) -> Command:
        """Return the command by which the data is this server's."""
        return "SET", self.name("run"), self._run_id, "PX", RUN_ID_MS

    async def _deliver_the_last(self, settings: CacheSettings) -> None:
        """Deliver before the process ends, within `LAST_DELIVERY_S`, or log the loss."""
        give_up_at = time.monotonic() + LAST_DELIVERY_S
        while self._undelivered and time.monotonic() < give_up_at:
            with suppress(RedisError, OSError):
                if self._connection is None:
                    await self._connect(settings)
                await self._catch_up()
            if self._undelivered:
                await asyncio.sleep(RETRY_S)
        if self._undelivered:
            logger.error(
                "cache: %d invalidated tags were not delivered: entries with them are shown until "
                "they expire: %s",
                len(self._undelivered),
                ", ".join(list(self._undelivered)[:10]),
            )


def _log(error: BaseException | None) -> None:
    if isinstance(error, ResponseError):
        logger.warning("cache: %s", error)
    elif error is not None:
        logger.debug("cache: %s: `_keep` connects again", error)


def slower(round_trips_s: Collection[float], loads_s: Collection[float]) -> bool:
    """Whether the median round trip exceeds `SLOW_S` and the median load; False without either."""
    if not round_trips_s or not loads_s:
        return False
    return median(round_trips_s) > max(SLOW_S, median(loads_s))


def run_id_of(info: bytes) -> bytes:
    """Return the server's run id from the reply to INFO; Refusal if the server is too old."""
    facts = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    version = facts.get("redis_version", "unknown")
    if not version[:1].isdecimal() or int(version.partition(".")[0]) < OLDEST_VERSION:
        raise Refusal(f"version {version} is too old: Valkey, or Redis 7, is needed")
    if facts.get("rdb_saves", "0") != "0":
        logger.warning('cache: the server saves snapshots, which are not used: set `save ""`')
    return facts.get("run_id", "").encode()
