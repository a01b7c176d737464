"""`cached`: store the result of a function until a tag is invalidated or its time ends."""

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass
from typing import Generic, ParamSpec, get_type_hints

from app.core.cache.store import Cache, Loaded, Outcome, Read, cache
from app.core.cache.store.entry import Entry
from app.core.cache.tags import check_template, field_names, fill, tag
from app.core.database import ReadSession, WriteSession
from app.core.http.problems import NotFound

P = ParamSpec("P")


class CachedFunction(Generic[P]):
    """A function that loads bytes; its results are stored under a key made of its arguments."""

    def __init__(self, load: Callable[P, Awaitable[bytes]], options: "cached") -> None:
        functools.update_wrapper(self, load)
        self._function = load
        self._options = options
        self._tags = (options.key,) if options.tags is None else options.tags
        self._signature = inspect.signature(load)
        # Two functions may have the same key.
        self._prefix = f"function:{load.__module__}.{load.__qualname__}:"
        _check(load, (options.key, *self._tags), {*field_names(options.key), *options.ignore})

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> bytes:
        """Return the value; NotFound if the function raises it, also within `negative_ttl_s`."""
        read = await self.read(*args, **kwargs)
        if read.entry.meta:
            raise NotFound(read.entry.meta.decode())
        return read.entry.body

    async def read(self, *args: P.args, **kwargs: P.kwargs) -> Read:
        """Return the value as an entry, and the outcome; `meta` is the text of a `NotFound`."""
        options = self._options
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()

        async def load() -> Loaded:
            try:
                body = await self._function(*args, **kwargs)
            except NotFound as error:
                if not options.negative_ttl_s:
                    raise
                return Loaded(Entry(b"", meta=error.detail.encode(), ttl_s=options.negative_ttl_s))
            if not isinstance(body, bytes):
                raise TypeError(f"{self._prefix} returned {type(body).__name__}, expected bytes")
            entry = Entry(
                body,
                ttl_s=options.store.ttl_s if options.ttl_s is None else options.ttl_s,
                stale_while_revalidate_s=options.stale_while_revalidate_s,
                stale_if_error_s=options.stale_if_error_s,
            )
            return Loaded(entry)

        if any(isinstance(value, WriteSession) for value in bound.arguments.values()):
            # The transaction may read rows that it never commits.
            return Read((await load()).entry, Outcome.MISS, is_stored=False)
        key = fill(options.key, bound.arguments)
        tags = tuple(fill(template, bound.arguments) for template in self._tags)
        return await options.store.read(self._prefix + key, tags, load)


@dataclass(frozen=True)
class cached:
    """Store the result of the decorated function under `key`:

        @cached("order-page:{order_id}", tags=("order:{order_id}",), ttl_s=60)
        async def order_page(session: ReadSession, order_id: UUID) -> bytes: ...

    Args:
        key: a template with the names of parameters in braces: every parameter that shapes the
            result belongs in it.
        tags: names for invalidation; the key if not given.
        ttl_s: freshness in seconds; `CACHE_TTL_S` if not given.
        stale_while_revalidate_s: time after the freshness in which callers get the stale value
            while one refresh runs.
        stale_if_error_s: time after the freshness in which callers get the stale value when the
            function raises `Unavailable`.
        negative_ttl_s: time in which a `NotFound` is remembered.
        ignore: parameters that do not shape the result; sessions never do.

    Raises:
        TypeError: when the key leaves a parameter out, or names one that does not exist.
        ValueError: when the key or a tag contains a value instead of a name in braces.
    """

    key: str
    _: KW_ONLY
    tags: tuple[str, ...] | None = None
    ttl_s: float | None = None
    stale_while_revalidate_s: float = 0.0
    stale_if_error_s: float = 0.0
    negative_ttl_s: float = 0.0
    ignore: tuple[str, ...] = ()
    store: Cache = cache

    def __call__(self, load: Callable[P, Awaitable[bytes]]) -> CachedFunction[P]:
        return CachedFunction(load, self)


def invalidate_after_commit(session: WriteSession, *tags: str, **values: object) -> None:
    """Invalidate the entries with one of these tags once the session has committed:

        invalidate_after_commit(session, "orders", "order:{order_id}", order_id=order.id)

    A rollback invalidates nothing.

    Raises:
        TypeError: when there is no tag, or a value is missing.
        ValueError: when a tag contains a value instead of a name in braces.
    """
    if not tags:
        raise TypeError("name the tags of the entries that the transaction changes")
    names = [tag(template, **values) for template in tags]
    session.after_commit(functools.partial(cache.invalidate, *names))


def _check(load: Callable[..., object], templates: tuple[str, ...], named: set[str]) -> None:
    """Raise TypeError or ValueError for templates that the function cannot fill.

    Args:
        named: parameters that are named in the key, or ignored.
    """
    name = load.__qualname__
    if not inspect.iscoroutinefunction(load):
        raise TypeError(f"{name} is no async function")
    annotations = get_type_hints(load)
    parameters = set(inspect.signature(load).parameters)
    for template in templates:
        check_template(template)
        if unknown := set(field_names(template)) - parameters:
            names = ", ".join(sorted(unknown))
            raise TypeError(f"{template!r} names no parameter of {name}: {names}")
    for parameter in parameters - named:
        annotation = annotations.get(parameter)
        if not (isinstance(annotation, type) and issubclass(annotation, ReadSession)):
            raise TypeError(
                f"{name}: {parameter} may shape the result: name it in the key, or in `ignore`"
            )
