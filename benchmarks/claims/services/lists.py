"""Posts with their authors, by N+1 queries and by an eager load; and pages, by OFFSET and by a keyset."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, event, make_url, select
from sqlalchemy.orm import Session, selectinload

from benchmarks.naive.models import Post

URL = os.environ["DATABASE_URL"]
COLUMNS = "SELECT id, author_id, title, created_at FROM posts"
ORDER = "ORDER BY created_at DESC, id DESC"

engine = create_engine(make_url(URL).set(drivername="postgresql+psycopg"), pool_size=10, max_overflow=0)
pool: asyncpg.Pool
statements = 0


@event.listens_for(engine, "before_cursor_execute")
def count(*_: Any) -> None:
    global statements
    statements += 1


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(URL, min_size=10, max_size=10) as pool:
        yield


app = FastAPI(lifespan=lifespan)


class Author(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str


class PostRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    title: str
    author: Author


class Row(BaseModel):
    id: UUID
    author_id: UUID
    title: str
    created_at: datetime


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/statements")
async def made_statements() -> int:
    """Return the number of statements of the sessions so far."""
    return statements


@app.get("/posts/n-plus-one")
def n_plus_one(limit: int) -> list[PostRead]:
    with Session(engine) as session:
        posts = session.scalars(select(Post).order_by(Post.created_at.desc(), Post.id.desc()).limit(limit))
        # Each author is loaded when its post is read.
        return [PostRead.model_validate(post) for post in posts]


@app.get("/posts/eager")
def eager(limit: int) -> list[PostRead]:
    newest = select(Post).order_by(Post.created_at.desc(), Post.id.desc()).limit(limit)
    with Session(engine) as session:
        posts = session.scalars(newest.options(selectinload(Post.author)))
        return [PostRead.model_validate(post) for post in posts]


@app.get("/pages/offset")
async def by_offset(offset: int) -> list[Row]:
    rows = await pool.fetch(f"{COLUMNS} {ORDER} LIMIT 20 OFFSET $1", offset)
    return [Row(**row) for row in rows]


@app.get("/pages/keyset")
async def by_keyset(created_at: datetime, post_id: UUID) -> list[Row]:
    where = "WHERE (created_at, id) < ($1, $2)"
    rows = await pool.fetch(f"{COLUMNS} {where} {ORDER} LIMIT 20", created_at, post_id)
    return [Row(**row) for row in rows]
