"""Totals of the items in a file, and items of the database by price."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from anyio import Path
from app.core.database import PreparedRead, ReadSession, Row
from app.core.settings import load
from fastapi import FastAPI
from pydantic import Field, FilePath, TypeAdapter
from pydantic_settings import BaseSettings
from sqlalchemy import Integer, bindparam, select

from app.arena.models import ArenaItem
from app.arena.schemas import PriceRange
from app.items.schemas import ItemRead

MOST = 50

COLUMNS = (
    *(ArenaItem.id, ArenaItem.name, ArenaItem.category, ArenaItem.price, ArenaItem.quantity),
    *(ArenaItem.active, ArenaItem.tags),
    ArenaItem.rating_score.label("rating.score"),
    ArenaItem.rating_count.label("rating.count"),
)
PRICED = PreparedRead(
    select(*COLUMNS)
    .where(ArenaItem.price.between(bindparam("low"), bindparam("high")))
    .limit(bindparam("limit", type_=Integer))
)


class DatasetSettings(BaseSettings):
    dataset_path: FilePath = Field(description="A JSON file of the items that `/json` answers.")


# As the specification has it: read when the process starts, and the same for all requests.
dataset: list[dict[str, Any]] = []


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """For the router: reads and checks the file, so a wrong one ends the start."""
    content = await Path(load(DatasetSettings).dataset_path).read_bytes()
    items = TypeAdapter(list[ItemRead]).validate_json(content)
    dataset[:] = [item.model_dump() for item in items]
    yield


def totals(count: int, multiplier: int) -> list[dict[str, Any]]:
    """The first items of the file, each with its total."""
    return [
        {**item, "total": item["price"] * item["quantity"] * multiplier} for item in dataset[:count]
    ]


async def priced(session: ReadSession, prices: PriceRange) -> list[Row]:
    """Items whose price is in the range, in no order."""
    limit = min(max(prices.limit, 1), MOST)
    return await session.fetch(PRICED, low=prices.min, high=prices.max, limit=limit)
