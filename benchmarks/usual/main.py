"""The code that good articles recommend, and as good as their advice allows: what a careful team has today.

gunicorn with 2n + 1 uvicorn workers on uvloop and httptools (gunicorn docs, "How Many Workers?",
benoitc/gunicorn docs/source/design.rst), SQLAlchemy's async ORM, Pydantic models, redis-py inside the routes when
CACHED is 1. Each piece of advice has a line on where it is found.

It leaves out what the advice leaves out. Thirty connections for each worker can be more than the database allows; a
Redis that fails is an error; a new name removes the user's own key, and other cached answers with the old name live on
for their TTL; pages lead forward only (`prev` is null).
"""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from pathlib import Path as FilePath
from typing import Annotated, Any, TypeVar
from uuid import UUID

from fastapi import FastAPI, HTTPException, Path, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter
from sqlalchemy import func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import selectinload

from benchmarks.usual.infrastructure import (
    Observability,
    ORJSONResponse,
    SessionDep,
    evict,
    from_cache,
    http,
    into_cache,
    lifespan,
    open_session,
)
from benchmarks.usual.models import (
    Dashboard,
    Item,
    ItemRead,
    NameChange,
    Page,
    Post,
    PricedItems,
    Summary,
    Totals,
    User,
    UserRead,
)

T = TypeVar("T")

USER, USERS, PAGE, SUMMARY, DASHBOARD = map(TypeAdapter, (UserRead, list[UserRead], Page, Summary, Dashboard))

app = FastAPI(title="Usual", lifespan=lifespan, default_response_class=ORJSONResponse)
app.add_middleware(Observability)


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/metrics")
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


@app.get("/users/{user_id}", response_model=UserRead)
async def read_user(user_id: UUID, session: SessionDep) -> Any:
    key = f"user:{user_id}"
    return await from_cache(key) or await into_cache(key, USER, await get_user(session, user_id))


@app.patch("/users/{user_id}", response_model=UserRead)
async def rename_user(user_id: UUID, change: NameChange, session: SessionDep) -> Any:
    user = await session.scalar(update(User).where(User.id == user_id).values(name=change.name).returning(User))
    if user is None:
        raise HTTPException(404, "There is no such user.")
    # Here and not in the dependency: a key that is removed before the commit may come back with the old name.
    await session.commit()
    await evict(f"user:{user_id}")
    return user


@app.get("/posts", response_model=Page)
async def list_posts(
    session: SessionDep, limit: Annotated[int, Query(ge=1, le=100)] = 20, before: str | None = None
) -> Any:
    if before is not None:
        return await get_page(session, limit, parse_cursor(before))
    key = f"posts:{limit}"
    return await from_cache(key) or await into_cache(key, PAGE, await get_page(session, limit))


@app.get("/reports/users", response_model=list[UserRead])
async def newest_users(session: SessionDep) -> Any:
    key = "users:newest"
    return await from_cache(key) or await into_cache(key, USERS, await get_newest_users(session))


@app.get("/reports/authors/{author_id}", response_model=Summary)
async def summarize_author(author_id: UUID, session: SessionDep) -> Any:
    key = f"summary:{author_id}"
    return await from_cache(key) or await into_cache(key, SUMMARY, await get_summary(session, author_id))


@app.get("/reports/authors/{author_id}/dashboard", response_model=Dashboard)
async def read_dashboard(author_id: UUID) -> Any:
    key = f"dashboard:{author_id}"
    return await from_cache(key) or await into_cache(key, DASHBOARD, await get_dashboard(author_id))


async def get_dashboard(author_id: UUID) -> dict[str, Any]:
    # A session for each task: SQLAlchemy docs, "Using AsyncSession with Concurrent Tasks".
    user, summary, own_posts, latest_posts, announcement = await asyncio.gather(
        in_session(lambda session: get_user(session, author_id)),
        in_session(lambda session: get_summary(session, author_id)),
        in_session(lambda session: get_own_posts(session, author_id)),
        in_session(lambda session: get_posts(session, 5)),
        fetch_announcement(),
    )
    return {
        "user": user,
        "summary": summary,
        "own_posts": own_posts,
        "latest_posts": latest_posts,
        "announcement": announcement,
    }


async def in_session(load: Callable[[AsyncSession], Awaitable[T]]) -> T:
    async with open_session() as session:
        return await load(session)


async def fetch_announcement() -> str:
    response = await http.get("/announcement")
    return response.raise_for_status().json()["announcement"]


async def get_user(session: AsyncSession, user_id: UUID) -> User:
    user = await session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no such user.")
    return user


async def get_newest_users(session: AsyncSession) -> Sequence[User]:
    statement = select(User).order_by(User.created_at.desc(), User.id.desc()).limit(1000)
    return (await session.scalars(statement)).all()


async def get_posts(session: AsyncSession, limit: int, position: tuple[datetime, UUID] | None = None) -> Sequence[Post]:
    # Two statements and no N + 1: SQLAlchemy docs, the ORM example of "Asynchronous I/O (asyncio)".
    statement = select(Post).options(selectinload(Post.author))
    if position is not None:
        # Keyset and not OFFSET: "Paginating Large Result Sets with Keyset Pagination" (async-workflows.com).
        here = tuple_(Post.created_at, Post.id)
        statement = statement.where(here < tuple_(*position, types=[Post.created_at.type, Post.id.type]))
    statement = statement.order_by(Post.created_at.desc(), Post.id.desc()).limit(limit)
    return (await session.scalars(statement)).all()


async def get_page(session: AsyncSession, limit: int, position: tuple[datetime, UUID] | None = None) -> dict[str, Any]:
    # One more than asked tells whether there is a next page.
    posts = await get_posts(session, limit + 1, position)
    return {"items": posts[:limit], "next": cursor(posts[limit - 1]) if len(posts) > limit else None}


def cursor(post: Post) -> str:
    # Z, because a + in a query is a space.
    return f"{post.created_at.isoformat().replace('+00:00', 'Z')}_{post.id}"


def parse_cursor(text: str) -> tuple[datetime, UUID]:
    created_at, _, post_id = text.partition("_")
    try:
        return datetime.fromisoformat(created_at), UUID(post_id)
    except ValueError:
        raise HTTPException(422, "`before` is not a position in the list.") from None


async def get_own_posts(session: AsyncSession, author_id: UUID) -> Sequence[Any]:
    own = select(Post.id, Post.title, Post.created_at).where(Post.author_id == author_id)
    return (await session.execute(own.order_by(Post.created_at.desc(), Post.id.desc()).limit(5))).all()


async def get_summary(session: AsyncSession, author_id: UUID) -> Any:
    statement = select(
        func.count().label("posts"),
        func.coalesce(func.sum(func.length(Post.body)), 0).label("characters"),
        func.min(Post.created_at).label("first_post_at"),
        func.max(Post.created_at).label("last_post_at"),
    )
    return (await session.execute(statement.where(Post.author_id == author_id))).one()


# HttpArena's profiles `api-4`, `async-db` and `json`, which allow no cached answers.

DATASET = [ItemRead.model_validate(item) for item in json.loads(FilePath(os.environ["DATASET_PATH"]).read_text())]


@app.get("/baseline11", response_class=PlainTextResponse)
async def sum_of_two(a: int, b: int) -> str:
    return str(a + b)


@app.get("/json/{count}", response_model=Totals)
async def totals(count: Annotated[int, Path(ge=1, le=50)], m: int = 1) -> Any:
    items = [item.model_dump() | {"total": item.price * item.quantity * m} for item in DATASET[:count]]
    return {"items": items, "count": len(items)}


@app.get("/async-db", response_model=PricedItems)
async def priced(
    session: SessionDep,
    low: Annotated[int, Query(alias="min")] = 10,
    high: Annotated[int, Query(alias="max")] = 50,
    limit: int = 50,
) -> Any:
    statement = select(Item).where(Item.price.between(low, high)).limit(min(max(limit, 1), 50))
    items = (await session.scalars(statement)).all()
    return {"items": items, "count": len(items)}
