"""Offset pagination: clients can jump to any page up to a maximum depth.

The database reads and discards every row before the page, so the depth is limited. Rows that are
inserted or deleted between two requests can make a client see a row twice or miss one.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

from pydantic import Field
from sqlalchemy import Integer, Select, bindparam

from app.core.database import PreparedRead, ReadSession, Row
from app.core.pagination.page import DEFAULT_LIMIT, ListParams, OrderBy, Page

MAX_OFFSET = 10_000

T = TypeVar("T")
Item = TypeVar("Item")


class PageParams(ListParams):
    """The query parameters of a list: `Annotated[PageParams, Query()]`."""

    position: ClassVar[str] = "offset"

    offset: int = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="Number of items before the page, such as `next` or `prev` of another page.",
    )


async def paginate(
    session: ReadSession,
    statement: Select[T],
    params: PageParams,
    *,
    order_by: OrderBy,
    convert: Callable[[T], Item],
) -> Page[Item]:
    """Return a page of `statement`, a `select(Model)` without ORDER BY, LIMIT and OFFSET.

    Args:
        order_by: columns that are unique together, or pages overlap: end with the primary key.
        convert: makes an item of the page from an entity, such as `BookRead.model_validate`.
    """
    rows = await session.scalars(
        statement.order_by(*order_by).limit(params.limit + 1).offset(params.offset)
    )
    page = _page(rows, params)
    return Page(items=[convert(row) for row in page.items], next=page.next, prev=page.prev)


class PreparedList:
    """A list in the prepared lane, declared once at import; its items are rows.

    Raises:
        ValueError: when the statement cannot be prepared.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]], *, order_by: OrderBy) -> None:
        """Take `statement` and `order_by` as for `paginate`; parameters are `bindparam`s."""
        ordered = statement.order_by(*order_by).offset(bindparam("page_offset", type_=Integer))
        # PostgreSQL plans a LIMIT that is a parameter at every call: the default is a constant.
        self._usual = PreparedRead(ordered.limit(DEFAULT_LIMIT + 1))
        self._any = PreparedRead(ordered.limit(bindparam("page_rows", type_=Integer)))

    async def page(self, session: ReadSession, params: PageParams, **values: Any) -> Page[Row]:
        """Return a page; `values` are the parameters of the statement."""
        values["page_offset"] = params.offset
        if params.limit == DEFAULT_LIMIT:
            rows = await session.fetch(self._usual, **values)
        else:
            rows = await session.fetch(self._any, page_rows=params.limit + 1, **values)
        return _page(rows, params)


def _page(rows: Sequence[T], params: PageParams) -> Page[T]:
    """Return the page of `rows`; a row more than the limit shows that another page follows."""
    following = params.offset + params.limit
    return Page(
        items=list(rows[: params.limit]),
        next=str(following) if len(rows) > params.limit and following <= MAX_OFFSET else None,
        prev=str(max(0, params.offset - params.limit)) if params.offset else None,
    )
