"""A cache in Valkey or Redis, shared by all workers; when it is ill, the service works without it.

redis-py's defaults would spend up to a minute on one read from a server that hangs; here an
operation has `cache_timeout_s` and no retry, and after a failure the cache is left alone for
`cache_retry_after_s`.
"""

import time
from collections.abc import Awaitable, Callable
from logging import getLogger
from typing import TypeVar

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.driver_info import DriverInfo
from redis.exceptions import RedisError, ResponseError

from app.core.settings.cache import CacheSettings

# Connections of one worker: each is busy for well under a millisecond at a time.
MAX_CONNECTIONS = 16
# Made once: without it each new connection reads redis-py's version from disk, in the event loop.
DRIVER = DriverInfo()

T = TypeVar("T")

logger = getLogger(__name__)


class ValkeyCache:
    """No method raises when the server fails: a read is then a miss, a write is lost."""

    def __init__(self) -> None:
        self._client: Redis | None = None
        self._prefix = ""
        self._retry_after_s = 0.0
        self._closed_until = 0.0
        self.ttl_s = 0.0

    def open(self, settings: CacheSettings) -> None:
        """Make the client; the first operation connects."""
        self._prefix = settings.cache_prefix
        self._retry_after_s = settings.cache_retry_after_s
        self._closed_until = 0.0
        self.ttl_s = settings.cache_ttl_s
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

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, key: str) -> bytes | None:
        """The value, or None when it is unknown or the server does not answer in time."""
        value = await self._attempt(lambda client: client.get(self._name(key)))
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl_s: float) -> bool:
        """Keep the value for `ttl_s` seconds; says whether it is kept."""
        ttl_ms = max(1, int(ttl_s * 1000))
        kept = await self._attempt(lambda client: client.set(self._name(key), value, px=ttl_ms))
        return kept is not None

    async def delete(self, key: str) -> None:
        """Forget the value; if the server does not answer, it stays until its TTL ends."""
        await self._attempt(lambda client: client.delete(self._name(key)))

    async def ping(self) -> bool:
        """Whether the server answers in time."""
        return await self._attempt(lambda client: client.ping()) is not None

    async def _attempt(self, operation: Callable[[Redis], Awaitable[T]]) -> T | None:
        if self._client is None or time.monotonic() < self._closed_until:
            return None
        try:
            return await operation(self._client)
        except ResponseError as error:
            # It answered, in time: this one operation is refused, for example for want of memory.
            logger.warning("cache: %s", error)
        except (RedisError, OSError) as error:
            self._closed_until = time.monotonic() + self._retry_after_s
            reason = f"{type(error).__name__}: {error}"
            logger.warning("cache: left alone for %g s: %s", self._retry_after_s, reason)
        return None

    def _name(self, key: str) -> str:
        return f"{self._prefix}:{key}"


cache = ValkeyCache()
