"""`cached`: store the result of a function until a tag is invalidated or its time ends."""

import functools
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from math import inf
from typing import Any, ParamSpec, get_type_hints

from app.core.cache.store import Cache, cache
from app.core.cache.store.entry import Entry
from app.core.cache.tags import check_template, field_names, fill, tag
from app.core.database import ReadSession, WriteSession
from app.core.http.problems import NotFound

P = ParamSpec("P")
CachedFunction = Callable[P, Coroutine[Any, Any, bytes]]


def cached(
    key: str,
    *,
    tags: tuple[str, ...] | None = None,
    ttl_s: float | None = None,
    stale_while_revalidate_s: float = 0.0,
    stale_if_error_s: float = 0.0,
    negative_ttl_s: float = 0.0,
    ignore: tuple[str, ...] = (),
    store: Cache = cache,
) -> Callable[[Callable[P, Awaitable[bytes]]], CachedFunction[P]]:
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
        ValueError: when the key or a tag contains a value instead of a name in braces, or a time is
            negative or infinite.
    """
    templates = (key,) if tags is None else tags
    for seconds in (ttl_s or 0, stale_while_revalidate_s, stale_if_error_s, negative_ttl_s):
        if not 0 <= seconds < inf:
            raise ValueError(f"{key}: {seconds} is no time; expected zero or more seconds")

    def decorate(function: Callable[P, Awaitable[bytes]]) -> CachedFunction[P]:
        _check(function, (key, *templates), {*field_names(key), *ignore})
        signature = inspect.signature(function)
        # Two functions may have the same key.
        prefix = f"function:{function.__module__}.{function.__qualname__}:"

        @functools.wraps(function)
        async def read(*args: P.args, **kwargs: P.kwargs) -> bytes:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()

            async def result() -> bytes:
                body = await function(*args, **kwargs)
                if not isinstance(body, bytes):
                    raise TypeError(f"{prefix} returned {type(body).__name__}, expected bytes")
                return body

            if any(isinstance(value, WriteSession) for value in bound.arguments.values()):
                # The transaction may read rows that it never commits.
                return await result()

            async def load() -> Entry:
                try:
                    body = await result()
                except NotFound as error:
                    if not negative_ttl_s:
                        raise
                    return Entry(b"", meta=error.detail.encode(), ttl_s=negative_ttl_s)
                return Entry(
                    body,
                    ttl_s=store.ttl_s if ttl_s is None else ttl_s,
                    stale_while_revalidate_s=stale_while_revalidate_s,
                    stale_if_error_s=stale_if_error_s,
                )

            names = tuple(fill(template, bound.arguments) for template in templates)
            entry = (await store.read(prefix + fill(key, bound.arguments), names, load)).entry
            if entry.meta:
                raise NotFound(entry.meta.decode())
            return entry.body

        return read

    return decorate


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
