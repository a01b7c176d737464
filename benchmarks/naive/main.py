"""What is found in slow services, all of it at once: the ground that the others are compared with.

One uvicorn worker on asyncio and h11 with its access log. Nothing here is made slow on purpose: no sleeps, no engine
for each request, no missing index, no count of all rows for a page. It leaves out caches, limits and keyset pages.
Each pattern has a line on where it is found.
"""

import json
import os
from typing import Annotated
from uuid import UUID

import requests
from fastapi import FastAPI, HTTPException, Path, Query, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, StringConstraints
from sqlalchemy import create_engine, func, make_url, select, update
from sqlalchemy.orm import Session

from benchmarks.naive.middleware import MetricsMiddleware, RequestIDMiddleware, TimingMiddleware
from benchmarks.naive.models import Item, Post, User

# Synchronous, and the default pool of 5 + 10: fastapi/fastapi docs_src/sql_databases (the whole tutorial).
engine = create_engine(make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql+psycopg"))

app = FastAPI(title="Naive")
app.add_middleware(TimingMiddleware)
app.add_middleware(MetricsMiddleware)
app.add_middleware(RequestIDMiddleware)


class NameChange(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


# Plain dicts without a return type go through `jsonable_encoder`: FastAPI docs, "First Steps"; what that costs:
# fastapi/fastapi issue 1224, pull request 2615.


def user_dict(user: User):
    return {"id": user.id, "email": user.email, "name": user.name, "created_at": user.created_at}


def post_dict(post: Post):
    return {
        "id": post.id,
        # Here each author is loaded, one by one: the example of "SQLAlchemy Relationship Lazy Loading Strategies in
        # Multi-Tenant FastAPI" (uguraslim.com).
        "author": {"id": post.author.id, "name": post.author.name},
        "title": post.title,
        "body": post.body,
        "created_at": post.created_at,
    }


@app.get("/livez")
async def live():
    return {"status": "ok"}


@app.get("/metrics")
def metrics():
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


# `def` and a session in a `with`: SQLModel docs, "Read Heroes with Limit and Offset with FastAPI". A session from a
# `yield` dependency, the other habit, can make this service wait for itself until the pool's time-out: the coroutine
# below would block the loop that has to close the sessions of others.
@app.get("/users/{user_id}")
def read_user(user_id: UUID):
    with Session(engine) as session:
        return user_dict(get_user(session, user_id))


@app.patch("/users/{user_id}")
def rename_user(user_id: UUID, change: NameChange):
    with Session(engine) as session:
        user = session.scalar(update(User).where(User.id == user_id).values(name=change.name).returning(User))
        if user is None:
            raise HTTPException(404, "There is no such user.")
        renamed = user_dict(user)
        session.commit()
        return renamed


@app.get("/posts")
def list_posts(limit: Annotated[int, Query(ge=1, le=100)] = 20, offset: Annotated[int, Query(ge=0)] = 0):
    with Session(engine) as session:
        # OFFSET: fastapi/fastapi docs_src/sql_databases/sql_app/crud.py. One more tells whether there is a next page.
        posts = newest_posts(session, limit + 1, offset)
        return {
            "items": [post_dict(post) for post in posts[:limit]],
            "next": offset + limit if len(posts) > limit else None,
            "prev": max(0, offset - limit) if offset else None,
        }


@app.get("/reports/users")
def newest_users():
    with Session(engine) as session:
        users = session.scalars(select(User).order_by(User.created_at.desc(), User.id.desc()).limit(1000))
        return [user_dict(user) for user in users]


@app.get("/reports/authors/{author_id}")
def summarize_author(author_id: UUID):
    with Session(engine) as session:
        return summarize(session, author_id)


# One after another, and all of it in a coroutine, where it stops every other request: blocking SQL as in
# open-webui/open-webui issue 11233, a blocking `requests.get` as in sgl-project/sglang pull request 33252.
@app.get("/reports/authors/{author_id}/dashboard")
async def read_dashboard(author_id: UUID):
    with Session(engine) as session:
        user = get_user(session, author_id)
        own_posts = session.scalars(
            select(Post).where(Post.author_id == author_id).order_by(Post.created_at.desc(), Post.id.desc()).limit(5)
        )
        # No client is kept either: each call makes a new connection.
        response = requests.get(f"{os.environ['UPSTREAM_URL']}/announcement", timeout=5)
        response.raise_for_status()
        return {
            "user": user_dict(user),
            "summary": summarize(session, author_id),
            "own_posts": [{"id": post.id, "title": post.title, "created_at": post.created_at} for post in own_posts],
            "latest_posts": [post_dict(post) for post in newest_posts(session, 5)],
            "announcement": response.json()["announcement"],
        }


def get_user(session: Session, user_id: UUID):
    user = session.get(User, user_id)
    if user is None:
        raise HTTPException(404, "There is no such user.")
    return user


def newest_posts(session: Session, limit: int, offset: int = 0):
    statement = select(Post).order_by(Post.created_at.desc(), Post.id.desc()).offset(offset).limit(limit)
    return session.scalars(statement).all()


def summarize(session: Session, author_id: UUID):
    posts, characters, first, last = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(func.length(Post.body)), 0),
            func.min(Post.created_at),
            func.max(Post.created_at),
        ).where(Post.author_id == author_id)
    ).one()
    return {"posts": posts, "characters": characters, "first_post_at": first, "last_post_at": last}


# HttpArena's profiles `api-4`, `async-db` and `json`.

with open(os.environ["DATASET_PATH"]) as file:
    DATASET = json.load(file)


@app.get("/baseline11")
async def sum_of_two(a: int, b: int):
    return PlainTextResponse(str(a + b))


@app.get("/json/{count}")
async def totals(count: Annotated[int, Path(ge=1, le=50)], m: int = 1):
    items = [{**item, "total": item["price"] * item["quantity"] * m} for item in DATASET[:count]]
    return {"items": items, "count": len(items)}


@app.get("/async-db")
def priced(
    low: Annotated[int, Query(alias="min")] = 10, high: Annotated[int, Query(alias="max")] = 50, limit: int = 50
):
    with Session(engine) as session:
        statement = select(Item).where(Item.price.between(low, high)).limit(min(max(limit, 1), 50))
        items = [item_dict(item) for item in session.scalars(statement)]
        return {"items": items, "count": len(items)}


def item_dict(item: Item):
    return {
        "id": item.id,
        "name": item.name,
        "category": item.category,
        "price": item.price,
        "quantity": item.quantity,
        "active": item.active,
        "tags": item.tags,
        "rating": {"score": item.rating_score, "count": item.rating_count},
    }
