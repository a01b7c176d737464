"""Cache-aside: a function whose result is kept until it is invalidated or its TTL ends."""

import functools
import inspect
import random
from collections.abc import Awaitable, Callable, Mapping
from string import Formatter
from typing import Generic, NamedTuple, ParamSpec
from urllib.parse import quote

from app.core.cache.backend import cache
from app.core.database import WriteSession

P = ParamSpec("P")


class Lookup(NamedTuple):
    """A value, whether it came from the cache, and whether it is there now."""

    body: bytes
    hit: bool
    stored: bool

    @property
    def status(self) -> str:
        """For the `Cache-Status` header (RFC 9211)."""
        if self.hit:
            return "app; hit"
        return "app; fwd=miss; stored" if self.stored else "app; fwd=miss"


class CachedFunction(Generic[P]):
    """A function that loads bytes, and remembers them under a key made of its arguments."""

    def __init__(
        self, load: Callable[P, Awaitable[bytes]], key: str, ttl_s: float | None = None
    ) -> None:
        functools.update_wrapper(self, load)
        self._load = load
        self._signature = inspect.signature(load)
        self._key = key
        self._ttl_s = ttl_s
        self._fields = {name for _, name, _, _ in Formatter().parse(key) if name}
        if unknown := self._fields - set(self._signature.parameters):
            raise TypeError(f"key {key!r} names no parameter of {load.__qualname__}: {unknown}")

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """The value, from the cache if it is there."""
        return (await self.lookup(*args, **kwargs)).body

    async def lookup(self, *args: P.args, **kwargs: P.kwargs) -> Lookup:
        """The value, and whether it came from the cache. What `load` raises is not kept."""
        arguments = self._signature.bind(*args, **kwargs)
        arguments.apply_defaults()
        if any(isinstance(value, WriteSession) for value in arguments.arguments.values()):
            # It may see what is never committed.
            return Lookup(await self._load(*args, **kwargs), hit=False, stored=False)
        key = self._name(arguments.arguments)
        body = await cache.get(key)
        if body is not None:
            return Lookup(body, hit=True, stored=True)
        body = await self._load(*args, **kwargs)
        # Jitter keeps values that were filled together from expiring together.
        ttl_s = (self._ttl_s or cache.ttl_s) * random.uniform(0.9, 1.0)  # noqa: S311 - no secret
        return Lookup(body, hit=False, stored=await cache.set(key, body, ttl_s))

    async def invalidate(self, **values: object) -> None:
        """Forget the value of these key fields; call it after the commit that changed them.

        Raises:
            TypeError: when `values` are not the fields of the key.
        """
        if set(values) != self._fields:
            raise TypeError(f"{self._key!r} has the fields {self._fields}, not {set(values)}")
        await cache.delete(self._name(values))

    def _name(self, values: Mapping[str, object]) -> str:
        # Quoted, so that no value can look like the border between two.
        quoted = {field: quote(str(values[field]), safe="") for field in self._fields}
        return self._key.format_map(quoted)


def cached(
    key: str, *, ttl_s: float | None = None
) -> Callable[[Callable[P, Awaitable[bytes]]], CachedFunction[P]]:
    """Keep what the decorated function returns under `key`, such as `"user:{user_id}"`.

    Args:
        key: names parameters of the function in braces; every parameter that shapes the result
            belongs in it.
        ttl_s: seconds, at most; `CACHE_TTL_S` if not given.

    Raises:
        TypeError: when `key` names a parameter that the function does not have.
    """
    return lambda load: CachedFunction(load, key, ttl_s)
