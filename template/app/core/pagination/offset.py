"""Offset pagination: jumps to any page up to a bounded depth.

The database reads and throws away every row before the page, so depth is bounded; and rows that
others insert or delete meanwhile may make a client see one twice or miss one.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Select
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.elements import UnaryExpression

from app.core.database import ReadSession
from app.core.pagination.page import DEFAULT_LIMIT, MAX_LIMIT, Page

MAX_OFFSET = 10_000

T = TypeVar("T")
Item = TypeVar("Item")


class PageParams(BaseModel):
    """The query parameters of a list: `Annotated[PageParams, Query()]`."""

    model_config = ConfigDict(extra="forbid")

    limit: int = Field(DEFAULT_LIMIT, ge=1, le=MAX_LIMIT, description="Most items on the page.")
    offset: int = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="Items before the page; `next` or `prev` of another page.",
    )


async def paginate(
    session: ReadSession,
    statement: Select[T],
    params: PageParams,
    *,
    order_by: Sequence[InstrumentedAttribute[Any] | UnaryExpression[Any]],
    convert: Callable[[T], Item],
) -> Page[Item]:
    """One page of `statement`, a `select(Model)` without ORDER BY, LIMIT and OFFSET.

    Args:
        order_by: columns that are unique together (end with the primary key), or pages overlap.
        convert: makes an item of the page from a row, such as `BookRead.model_validate`.
    """
    # One row more than asked tells whether there is another page, without counting.
    rows = await session.scalars(
        statement.order_by(*order_by).limit(params.limit + 1).offset(params.offset)
    )
    following = params.offset + params.limit
    return Page(
        items=[convert(row) for row in rows[: params.limit]],
        next=str(following) if len(rows) > params.limit and following <= MAX_OFFSET else None,
        prev=str(max(0, params.offset - params.limit)) if params.offset else None,
    )
