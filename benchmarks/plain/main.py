"""FastAPI, asyncpg and orjson, as lean as a good programmer writes them by hand: the bar for the rendered service.

SQL with JOINs, dicts made from rows, bytes from orjson; Pydantic for what comes in, and for nothing that goes out.
It leaves out every guard: no cache but that of `crud`, no limits on the body, on waiting or on statements, no metrics,
no problem documents, no schema of the answers, no page before the current one (`prev` is null).
"""

import asyncio
import os
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path as FilePath
from time import monotonic
from typing import Annotated, Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
from fastapi import FastAPI, HTTPException, Path, Query, Response
from pydantic import BaseModel, Field, StringConstraints

USER = "SELECT id, email, name, created_at FROM users WHERE id = $1"
NEWEST_USERS = "SELECT id, email, name, created_at FROM users ORDER BY created_at DESC, id DESC LIMIT 1000"
RENAME = "UPDATE users SET name = $2 WHERE id = $1 RETURNING id, email, name, created_at"
SUMMARY = """
    SELECT count(*), coalesce(sum(length(body)), 0), min(created_at), max(created_at)
    FROM posts WHERE author_id = $1
"""
OWN_POSTS = "SELECT id, title, created_at FROM posts WHERE author_id = $1 ORDER BY created_at DESC, id DESC LIMIT 5"

pool: asyncpg.Pool
http: aiohttp.ClientSession


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    global pool, http
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=10, max_size=10) as pool,
        aiohttp.ClientSession(os.environ["UPSTREAM_URL"], raise_for_status=True) as http,
    ):
        yield


# Nothing is exported, so that there is nothing to look up for each request.
app = FastAPI(title="Plain", lifespan=lifespan, telemetry={"tracing": False, "metrics": False, "logs": False})


class NameChange(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


def as_json(value: Any) -> Response:
    # Not through FastAPI's encoder, which takes over a hundred times as long.
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), media_type="application/json")


def posts_query(limit: int, *, below: bool = False) -> str:
    """The newest posts with their authors; `below`: those after the post ($1, $2) only.

    The limit is a literal because PostgreSQL plans a parameter there anew each time: 0.41 ms instead of 0.28.
    """
    where = "WHERE (p.created_at, p.id) < ($1, $2)" if below else ""
    return f"""
        SELECT p.id, u.id, u.name, p.title, p.body, p.created_at
        FROM posts p JOIN users u ON u.id = p.author_id {where}
        ORDER BY p.created_at DESC, p.id DESC LIMIT {limit}
    """  # noqa: S608 - an integer and a constant


# Rows become dicts here; `str` because asyncpg's UUID is a subclass, which orjson refuses.


def user_dict(row: asyncpg.Record) -> dict[str, Any]:
    user_id, email, name, created_at = row
    return {"id": str(user_id), "email": email, "name": name, "created_at": created_at}


def post_dict(row: asyncpg.Record) -> dict[str, Any]:
    post_id, author_id, name, title, body, created_at = row
    author = {"id": str(author_id), "name": name}
    return {"id": str(post_id), "author": author, "title": title, "body": body, "created_at": created_at}


def own_post_dict(row: asyncpg.Record) -> dict[str, Any]:
    post_id, title, created_at = row
    return {"id": str(post_id), "title": title, "created_at": created_at}


def summary_dict(row: asyncpg.Record) -> dict[str, Any]:
    posts, characters, first_post_at, last_post_at = row
    return {"posts": posts, "characters": characters, "first_post_at": first_post_at, "last_post_at": last_post_at}


@app.get("/livez")
async def live() -> Response:
    return Response(b'{"status":"ok"}', media_type="application/json")


@app.get("/users/{user_id}")
async def read_user(user_id: UUID) -> Response:
    row = await pool.fetchrow(USER, user_id)
    if row is None:
        raise HTTPException(404, "There is no such user.")
    return as_json(user_dict(row))


@app.patch("/users/{user_id}")
async def rename_user(user_id: UUID, change: NameChange) -> Response:
    row = await pool.fetchrow(RENAME, user_id, change.name)
    if row is None:
        raise HTTPException(404, "There is no such user.")
    return as_json(user_dict(row))


@app.get("/posts")
async def list_posts(limit: Annotated[int, Query(ge=1, le=100)] = 20, before: str | None = None) -> Response:
    # One more than asked tells whether there is a next page.
    if before is None:
        rows = await pool.fetch(posts_query(limit + 1))
    else:
        rows = await pool.fetch(posts_query(limit + 1, below=True), *parse_cursor(before))
    following = cursor(rows[limit - 1]) if len(rows) > limit else None
    return as_json({"items": [post_dict(row) for row in rows[:limit]], "next": following, "prev": None})


def cursor(post: asyncpg.Record) -> str:
    # Z, because a + in a query is a space.
    return f"{post['created_at'].isoformat().replace('+00:00', 'Z')}_{post[0]}"


def parse_cursor(text: str) -> tuple[datetime, UUID]:
    created_at, _, post_id = text.partition("_")
    try:
        return datetime.fromisoformat(created_at), UUID(post_id)
    except ValueError:
        raise HTTPException(422, "`before` is not a position in the list.") from None


@app.get("/reports/users")
async def newest_users() -> Response:
    return as_json([user_dict(row) for row in await pool.fetch(NEWEST_USERS)])


@app.get("/reports/authors/{author_id}")
async def summarize_author(author_id: UUID) -> Response:
    return as_json(summary_dict(await pool.fetchrow(SUMMARY, author_id)))


@app.get("/reports/authors/{author_id}/dashboard")
async def read_dashboard(author_id: UUID) -> Response:
    user, summary, own_posts, latest_posts, announcement = await asyncio.gather(
        pool.fetchrow(USER, author_id),
        pool.fetchrow(SUMMARY, author_id),
        pool.fetch(OWN_POSTS, author_id),
        pool.fetch(posts_query(5)),
        fetch_announcement(),
    )
    if user is None:
        raise HTTPException(404, "There is no such user.")
    return as_json(
        {
            "user": user_dict(user),
            "summary": summary_dict(summary),
            "own_posts": [own_post_dict(row) for row in own_posts],
            "latest_posts": [post_dict(row) for row in latest_posts],
            "announcement": announcement,
        }
    )


async def fetch_announcement() -> str:
    async with http.get("/announcement") as response:
        return orjson.loads(await response.read())["announcement"]


# HttpArena's profile `crud`. Its specification wants a cache-aside of 200 ms for one item, in the process, and the
# header X-Cache: https://github.com/MDA2AV/HttpArena

ITEM_TTL_S = 0.2
MAX_ITEMS = 10_000
ITEM_COLUMNS = "id, name, category, price, quantity, active, tags, rating_score, rating_count"
ITEM = f"SELECT {ITEM_COLUMNS} FROM items WHERE id = $1"  # noqa: S608 - constants
# Constants.
ITEMS = f"SELECT {ITEM_COLUMNS} FROM items WHERE category = $1 ORDER BY id LIMIT $2 OFFSET $3"  # noqa: S608
UPDATE_ITEM = "UPDATE items SET name = $2, price = $3, quantity = $4 WHERE id = $1 RETURNING id, name, price, quantity"
CREATE_ITEM = """
    INSERT INTO items (id, name, category, price, quantity, active, tags, rating_score, rating_count)
    VALUES ($1, $2, $3, $4, $5, true, '["bench"]', 0, 0)
    ON CONFLICT (id) DO UPDATE SET name = $2, price = $4, quantity = $5
    RETURNING id, name, category, price, quantity
"""

# When each expires, and its JSON; the oldest first, because all live equally long.
items: OrderedDict[int, tuple[float, bytes]] = OrderedDict()

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Number = Annotated[int, Field(ge=0, lt=2**31)]
ItemId = Annotated[int, Path(ge=0, lt=2**31)]


class ItemChange(BaseModel):
    name: Name
    price: Number
    quantity: Number


class NewItem(ItemChange):
    id: Number
    category: Name


def item_dict(row: asyncpg.Record) -> dict[str, Any]:
    item_id, name, category, price, quantity, active, tags, score, count = row
    return {
        "id": item_id,
        "name": name,
        "category": category,
        "price": price,
        "quantity": quantity,
        "active": active,
        # JSON already.
        "tags": orjson.Fragment(tags),
        "rating": {"score": score, "count": count},
    }


@app.get("/crud/items")
async def list_items(
    category: Annotated[str, Query(max_length=100)] = "electronics",
    page: Annotated[int, Query(ge=1, le=1_000)] = 1,
    limit: Annotated[int, Query(ge=1, le=50)] = 10,
) -> Response:
    found = [item_dict(row) for row in await pool.fetch(ITEMS, category, limit, (page - 1) * limit)]
    return as_json({"items": found, "total": len(found), "page": page, "limit": limit})


@app.get("/crud/items/{item_id}")
async def read_item(item_id: ItemId) -> Response:
    entry = items.get(item_id)
    if entry and entry[0] > monotonic():
        return Response(entry[1], media_type="application/json", headers={"X-Cache": "HIT"})
    row = await pool.fetchrow(ITEM, item_id)
    if row is None:
        raise HTTPException(404, "There is no such item.")
    body = orjson.dumps(item_dict(row))
    items[item_id] = monotonic() + ITEM_TTL_S, body
    items.move_to_end(item_id)
    if len(items) > MAX_ITEMS:
        items.popitem(last=False)
    return Response(body, media_type="application/json", headers={"X-Cache": "MISS"})


@app.post("/crud/items")
async def create_item(item: NewItem) -> Response:
    row = await pool.fetchrow(CREATE_ITEM, item.id, item.name, item.category, item.price, item.quantity)
    items.pop(item.id, None)
    return Response(orjson.dumps(dict(row)), status_code=201, media_type="application/json")


@app.put("/crud/items/{item_id}")
async def update_item(item_id: ItemId, change: ItemChange) -> Response:
    row = await pool.fetchrow(UPDATE_ITEM, item_id, change.name, change.price, change.quantity)
    if row is None:
        raise HTTPException(404, "There is no such item.")
    items.pop(item_id, None)
    return as_json(dict(row))


# HttpArena's profiles `api-4`, `async-db` and `json`, which allow no cached answers.

DATASET: list[dict[str, Any]] = orjson.loads(FilePath(os.environ["DATASET_PATH"]).read_bytes())
# Constants.
PRICED = f"SELECT {ITEM_COLUMNS} FROM arena_items WHERE price BETWEEN $1 AND $2 LIMIT $3"  # noqa: S608 - constants


@app.get("/baseline11")
async def sum_of_two(a: int, b: int) -> Response:
    return Response(str(a + b), media_type="text/plain")


@app.get("/json/{count}")
async def totals(count: Annotated[int, Path(ge=1, le=50)], m: Number = 1) -> Response:
    found = [{**item, "total": item["price"] * item["quantity"] * m} for item in DATASET[:count]]
    return as_json({"items": found, "count": len(found)})


@app.get("/async-db")
async def priced(
    low: Annotated[Number, Query(alias="min")] = 10, high: Annotated[Number, Query(alias="max")] = 50, limit: int = 50
) -> Response:
    rows = await pool.fetch(PRICED, low, high, min(max(limit, 1), 50))
    return as_json({"items": [item_dict(row) for row in rows], "count": len(rows)})
