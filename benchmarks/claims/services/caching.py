"""20 posts, and a report over all posts: uncached, from Redis in the route, and from a dict before the route."""

import os
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import redis.asyncio
from fastapi import FastAPI, Response
from pydantic import BaseModel, ConfigDict, TypeAdapter
from sqlalchemy import func, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import selectinload

from benchmarks.naive.models import Post

TTL_S = 300
LOCAL = "/local"

url = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+asyncpg")
engine = create_async_engine(url, pool_size=10, max_overflow=0)
cache = redis.asyncio.Redis.from_url(os.environ["CACHE_URL"])


class Local:
    """Answers from a dict before FastAPI; the first answer to each path stays for good, which suffices to measure hits.

    Every other part of a response cache costs something more.
    """

    def __init__(self, app: Any) -> None:
        self.app, self.stored = app, {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if not path.startswith(LOCAL):
            await self.app(scope, receive, send)
            return
        if messages := self.stored.get(path):
            for message in messages:
                await send(message)
            return
        messages = []

        async def store(message: Any) -> None:
            messages.append(message)
            await send(message)

        await self.app(scope, receive, store)
        self.stored[path] = messages


app = FastAPI()
app.add_middleware(Local)


class Author(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str


class PostRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    body: str
    author: Author


class Line(BaseModel):
    author_id: UUID
    posts: int
    characters: int


POSTS, LINES = TypeAdapter(list[PostRead]), TypeAdapter(list[Line])


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


async def find_posts() -> list[PostRead]:
    newest = select(Post).order_by(Post.created_at.desc(), Post.id.desc()).limit(20)
    async with AsyncSession(engine) as session:
        posts = await session.scalars(newest.options(selectinload(Post.author)))
        return POSTS.validate_python(posts.all(), from_attributes=True)


async def make_report() -> list[Line]:
    number = func.count().label("posts")
    characters = func.sum(func.length(Post.body))
    largest = select(Post.author_id, number, characters).group_by(Post.author_id).order_by(number.desc()).limit(20)
    async with AsyncSession(engine) as session:
        rows = (await session.execute(largest)).all()
        return [Line(author_id=author_id, posts=posts, characters=length) for author_id, posts, length in rows]


@app.get("/uncached/posts")
@app.get(f"{LOCAL}/posts")
async def posts() -> list[PostRead]:
    return await find_posts()


async def from_redis(key: str, load: Callable[[], Awaitable[Any]], adapter: TypeAdapter[Any]) -> Response:
    body = await cache.get(key)
    if body is None:
        body = adapter.dump_json(await load())
        await cache.set(key, body, ex=TTL_S)
    return Response(body, media_type="application/json")


@app.get("/redis/posts")
async def posts_from_redis() -> Response:
    return await from_redis("posts", find_posts, POSTS)


@app.get("/uncached/report")
async def report() -> list[Line]:
    return await make_report()


@app.get("/redis/report")
async def report_from_redis() -> Response:
    return await from_redis("report", make_report, LINES)
