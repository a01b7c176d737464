"""A domain whose answers a client can check: items with a version, and entries with a job.

It uses what a team's domain uses; `app/api.py` includes its router for the run.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any
from uuid import UUID

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text, Uuid, insert, select
from sqlalchemy.sql import update

import app.core.cache as caching
from app.core.cache import no_store
from app.core.database import ReadSession, ReadSessionDep, WriteSession, WriteSessionDep
from app.core.http.problems import NotFound
from app.core.jobs import enqueue, job
from tests.internals.chaos.bounds import HAS_AUTH, TTL_S

TABLES = """
    CREATE TABLE chaos_item (id int PRIMARY KEY, version bigint NOT NULL, text text NOT NULL);
    CREATE TABLE chaos_entry (token uuid PRIMARY KEY);
    CREATE TABLE chaos_effect (
        token uuid NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
"""
_tables = MetaData()
item_table = Table(
    "chaos_item",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("version", BigInteger),
    Column("text", Text),
)
entry_table = Table("chaos_entry", _tables, Column("token", Uuid, primary_key=True))
effect_table = Table("chaos_effect", _tables, Column("token", Uuid))

# With `auth=jwt`, each route declares who may call it.
_anybody = [import_module("app.core.security").public()] if HAS_AUTH else []
router = APIRouter(prefix="/chaos", tags=["chaos"], dependencies=_anybody)
Read = Callable[[int, ReadSessionDep], Awaitable["Item"]]
# A service without a cache has neither.
_invalidate: Any = getattr(caching, "invalidate_after_commit", None)
_cached: Callable[[Read], Read] = (
    caching.public(ttl_s=TTL_S, tags=("item:{item_id}",)) if _invalidate is not None else no_store
)


class Item(BaseModel):
    id: int
    version: int
    text: str


class Change(BaseModel):
    version: int
    text: str


async def _item(session: ReadSession, item_id: int) -> Item:
    rows = await session.rows(select(item_table).where(item_table.c.id == item_id))
    if not rows:
        raise NotFound("There is no such item.")
    return Item.model_validate(rows[0], from_attributes=True)


@router.get("/items/{item_id}")
@no_store
async def read(item_id: int, session: ReadSessionDep) -> Item:
    return await _item(session, item_id)


@router.get("/cached/{item_id}")
@_cached
async def read_cached(item_id: int, session: ReadSessionDep) -> Item:
    return await _item(session, item_id)


@router.put("/items/{item_id}", status_code=204)
async def write(item_id: int, change: Change, session: WriteSessionDep) -> None:
    """Set a version, unless a later one is stored: a write of unknown outcome may come late."""
    if _invalidate is not None:
        _invalidate(session, "item:{item_id}", item_id=item_id)
    await session.execute(
        update(item_table)
        .where(item_table.c.id == item_id, item_table.c.version < change.version)
        .values(version=change.version, text=change.text)
    )


@job
async def take_effect(token: UUID) -> None:
    async with WriteSession() as session:
        await session.execute(insert(effect_table).values(token=token))


@router.post("/entries/{token}", status_code=202)
async def enter(token: UUID, session: WriteSessionDep) -> None:
    """Store an entry, and enqueue its job in the same transaction."""
    await session.execute(insert(entry_table).values(token=token))
    await enqueue(session, take_effect, token)
