"""HttpArena's profile `crud`, as a team writes a hot path: prepared statements, and policies of the cache.

Reads of one item live for 200 ms, and a write ends them earlier; lists always ask the database.
"""

from importlib.util import find_spec
from typing import Annotated

from app.core.cache import no_store, public
from app.core.database import (
    PreparedRead,
    PreparedWrite,
    ReadSessionDep,
    WriteSession,
    WriteSessionDep,
)
from app.core.http.problems import NotFound
from app.core.http.serialization import json_response
from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import Integer, String, bindparam, select, update
from sqlalchemy.dialects.postgresql import insert

from app.items.models import Item
from app.items.schemas import (
    ItemCreate,
    ItemCreated,
    ItemPage,
    ItemPageParams,
    ItemRead,
    ItemUpdate,
    ItemUpdated,
)

TTL_S = 0.2

if find_spec("app.core.cache.store"):
    from app.core.cache import invalidate_after_commit

    kept = public(ttl_s=TTL_S, tags=("item:{item_id}",))

    def invalidate(session: WriteSession, item_id: int) -> None:
        invalidate_after_commit(session, "item:{item_id}", item_id=item_id)
else:
    kept = public()

    def invalidate(session: WriteSession, item_id: int) -> None:
        """Without a cache there is nothing to invalidate."""


COLUMNS = (
    *(Item.id, Item.name, Item.category, Item.price, Item.quantity, Item.active, Item.tags),
    *(Item.rating_score.label("rating.score"), Item.rating_count.label("rating.count")),
)
ITEM = PreparedRead(select(*COLUMNS).where(Item.id == bindparam("item_id")))
ITEMS = PreparedRead(
    select(*COLUMNS)
    .where(Item.category == bindparam("category"))
    .order_by(Item.id)
    .limit(bindparam("limit", type_=Integer))
    .offset(bindparam("offset", type_=Integer))
)
NEW = {
    "name": bindparam("new_name", type_=String),
    "price": bindparam("new_price", type_=Integer),
    "quantity": bindparam("new_quantity", type_=Integer),
}
UPDATE = PreparedWrite(
    update(Item)
    .where(Item.id == bindparam("item_id"))
    .values(NEW)
    .returning(Item.id, Item.name, Item.price, Item.quantity)
)
CREATE = PreparedWrite(
    insert(Item)
    .values(
        NEW
        | {
            "id": bindparam("item_id", type_=Integer),
            "category": bindparam("new_category", type_=String),
            "active": True,
            "tags": ["bench"],
            "rating_score": 0,
            "rating_count": 0,
        }
    )
    .on_conflict_do_update(index_elements=[Item.id], set_=NEW)
    .returning(Item.id, Item.name, Item.category, Item.price, Item.quantity)
)

ItemId = Annotated[int, Path(ge=0, lt=2**31)]

router = APIRouter(prefix="/crud/items", tags=["items"])


@router.get("", response_model=ItemPage)
@no_store
async def list_items(
    params: Annotated[ItemPageParams, Query()], session: ReadSessionDep
) -> Response:
    """Items of a category, by their ids."""
    category, page, limit = params.category, params.page, params.limit
    items = await session.fetch(ITEMS, category=category, limit=limit, offset=(page - 1) * limit)
    return json_response({"items": items, "total": len(items), "page": page, "limit": limit})


@router.get("/{item_id}", response_model=ItemRead)
@kept
async def read_item(item_id: ItemId, session: ReadSessionDep) -> Response:
    """One item."""
    item = await session.fetch_one(ITEM, item_id=item_id)
    if item is None:
        raise NotFound(f"There is no item {item_id}.")
    return json_response(item)


@router.post("", status_code=201, response_model=ItemCreated)
async def create_item(data: ItemCreate, session: WriteSessionDep) -> Response:
    """Create an item, or replace the one with this id."""
    invalidate(session, data.id)
    (item,) = await session.autocommit(
        CREATE,
        item_id=data.id,
        new_name=data.name,
        new_category=data.category,
        new_price=data.price,
        new_quantity=data.quantity,
    )
    return json_response(item, status_code=201)


@router.put("/{item_id}", response_model=ItemUpdated)
async def update_item(item_id: ItemId, data: ItemUpdate, session: WriteSessionDep) -> Response:
    """Change an item."""
    invalidate(session, item_id)
    items = await session.autocommit(
        UPDATE,
        item_id=item_id,
        new_name=data.name,
        new_price=data.price,
        new_quantity=data.quantity,
    )
    if not items:
        raise NotFound(f"There is no item {item_id}.")
    return json_response(items[0])
