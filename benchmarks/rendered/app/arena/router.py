"""HttpArena's profiles `json`, `async-db` and `api-4`, whose specifications forbid cached answers."""

from typing import Annotated

from app.core.cache import no_store
from app.core.database import ReadSessionDep
from app.core.http.serialization import json_response
from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import PlainTextResponse

from app.arena import service
from app.arena.schemas import Number, PriceRange, PricedItems, Totals

router = APIRouter(tags=["arena"], lifespan=service.lifespan)


@router.get("/baseline11", response_class=PlainTextResponse)
@no_store
async def sum_of_two(a: int, b: int) -> str:
    """The sum of two numbers."""
    return str(a + b)


@router.get("/json/{count}", response_model=Totals)
@no_store
async def totals(count: Annotated[int, Path(ge=1, le=service.MOST)], m: Number = 1) -> Response:
    """The first items, each with its total."""
    items = service.totals(count, m)
    return json_response({"items": items, "count": len(items)})


@router.get("/async-db", response_model=PricedItems)
@no_store
async def priced(prices: Annotated[PriceRange, Query()], session: ReadSessionDep) -> Response:
    """Items of the database by their price."""
    items = await service.priced(session, prices)
    return json_response({"items": items, "count": len(items)})
