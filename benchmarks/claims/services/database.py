"""One user by key: from a pool, by a connection for each request, and with SQLAlchemy's synchronous and async sessions.

`/three` makes three reads for one response, one by one or at the same time.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from sqlalchemy import create_engine, make_url, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from benchmarks.naive.models import User

URL = os.environ["DATABASE_URL"]
SELECT = "SELECT id, email, name, created_at FROM users WHERE id = $1"
# The latency of one query, for `/three`.
SLOW = "SELECT pg_sleep(0.01)"

# Both with as many connections.
engine = create_engine(make_url(URL).set(drivername="postgresql+psycopg"), pool_size=10, max_overflow=0)
async_engine = create_async_engine(make_url(URL).set(drivername="postgresql+asyncpg"), pool_size=10, max_overflow=0)
pool: asyncpg.Pool
opened = 0


async def connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
    global opened
    opened += 1
    return await asyncpg.connect(*arguments, **options)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool
    async with asyncpg.create_pool(URL, min_size=10, max_size=10, connect=connect) as pool:
        yield


app = FastAPI(lifespan=lifespan)


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    created_at: datetime


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/users/{user_id}/pool")
async def by_pool(user_id: UUID) -> UserRead:
    return UserRead(**await pool.fetchrow(SELECT, user_id))


@app.get("/users/{user_id}/connection")
async def by_connection(user_id: UUID) -> UserRead:
    connection = await connect(URL)
    try:
        return UserRead(**await connection.fetchrow(SELECT, user_id))
    finally:
        await connection.close()


@app.get("/users/{user_id}/sync")
def by_sync_session(user_id: UUID) -> UserRead:
    with Session(engine) as session:
        return UserRead.model_validate(session.scalars(select(User).where(User.id == user_id)).one())


@app.get("/users/{user_id}/async")
async def by_async_session(user_id: UUID) -> UserRead:
    async with AsyncSession(async_engine) as session:
        return UserRead.model_validate((await session.scalars(select(User).where(User.id == user_id))).one())


@app.get("/three/{user_id}/one-by-one")
async def three_one_by_one(user_id: UUID) -> list[UserRead]:
    return [UserRead(**await pool.fetchrow(SELECT, user_id)) for _ in range(3)]


@app.get("/three/{user_id}/gather")
async def three_at_once(user_id: UUID) -> list[UserRead]:
    rows = await asyncio.gather(*(pool.fetchrow(SELECT, user_id) for _ in range(3)))
    return [UserRead(**row) for row in rows]


@app.get("/slow/one-by-one")
async def slow_one_by_one() -> dict[str, str]:
    for _ in range(3):
        await pool.fetchval(SLOW)
    return {"status": "done"}


@app.get("/slow/gather")
async def slow_at_once() -> dict[str, str]:
    await asyncio.gather(*(pool.fetchval(SLOW) for _ in range(3)))
    return {"status": "done"}


@app.get("/connections")
async def connections() -> int:
    """Return the number of connections that the driver has opened."""
    return opened
