"""Ways to come by a user as JSON: from the database, and from what caches hold; None for nobody."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import cashews
from app.core.cache import cache, cached
from app.core.cache.store.entry import Entry
from app.core.cache.store.local import LocalCache
from app.core.database import ReadSession
from app.core.http.problems import NotFound
from app.core.settings import load as load_settings
from app.core.settings.cache import CacheSettings
from fastapi import FastAPI
from redis.asyncio import Redis

from app.lanes.prepared import read_user as load

TTL_S = 600
# A server that is given may still hold what an earlier run has left there.
RUN = f"caches:{os.environ.get('PORT')}"
URL = load_settings(CacheSettings).cache_url.get_secret_value()

redis = Redis.from_url(URL)
cashews.cache.setup(URL)


class SelectiveLocal(LocalCache):
    """Keeps nothing of the way `shared`, so that each of its hits comes from the server."""

    def put(self, key: str, tags: Sequence[str], entry: Entry, began: int) -> bool:
        return "/caches/shared/" not in key and super().put(key, tags, entry, began)


# The same object, which the shared cache invalidates too.
cache.local.__class__ = SelectiveLocal


@cached(f"{RUN}:{{user_id}}", tags=("user:{user_id}",), ttl_s=TTL_S)
async def by_function(session: ReadSession, user_id: UUID) -> bytes:
    """The template's own cache of functions."""
    user = await load(session, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return user


# As its README has it: a key made of the arguments, and bytes that are pickled.
@cashews.cache(ttl=TTL_S, key=f"{RUN}:cashews:{{user_id}}")
async def by_cashews(session: ReadSession, user_id: UUID) -> bytes | None:
    return await load(session, user_id)


async def by_redis(session: ReadSession, user_id: UUID) -> bytes | None:
    """Cache-aside, as articles on FastAPI and Redis have it; they make JSON anew from what they keep."""
    key = f"{RUN}:redis:{user_id}"
    user = await redis.get(key)
    if user is None:
        user = await load(session, user_id)
        if user is not None:
            await redis.set(key, user, ex=TTL_S)
    return user


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """For the router: closes what was opened here."""
    try:
        yield
    finally:
        await redis.aclose()
        await cashews.cache.close()
