"""Offset pages: whole, in order, and not arbitrarily deep."""

from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy import bindparam, func, insert, select, text

from app.core.database import ReadSession, WriteSession
from app.core.pagination import Page, PageParams, PreparedList, page_response, paginate
from app.core.pagination.offset import MAX_OFFSET
from tests.core.budget import QueryBudget
from tests.internals.tables import Book, tables

NEWEST_FIRST = (Book.added_at.desc(), Book.id.desc())
BOOKS = PreparedList(
    select(Book.title).where(Book.title.like(bindparam("pattern"))), order_by=NEWEST_FIRST
)


@pytest.fixture(autouse=True)
async def _books(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        async with WriteSession() as session:
            rows = select(
                func.concat("book ", text("n")), func.to_timestamp(text("n / 4"))
            ).select_from(text("generate_series(1, 50) AS n"))
            await session.execute(insert(Book).from_select(["title", "added_at"], rows))
        yield


async def page(offset: str | None, limit: int) -> Page[str]:
    """The page, which is the same in both lanes."""
    params = PageParams(limit=limit, offset=int(offset or 0))
    entities = await paginate(
        ReadSession(), select(Book), params, order_by=NEWEST_FIRST, convert=lambda book: book.title
    )
    rows = await BOOKS.page(ReadSession(), params, pattern="book %")
    assert rows == Page(
        items=[{"title": title} for title in entities.items],
        next=entities.next,
        prev=entities.prev,
    )
    return entities


@pytest.mark.parametrize("limit", [1, 7, 20, 49, 50, 100])
async def test_forward_then_backward_shows_everything_once(limit: int) -> None:
    pages = [await page(None, limit)]
    while pages[-1].next:
        pages.append(await page(pages[-1].next, limit))
    back = [pages[-1]]
    while back[-1].prev:
        back.append(await page(back[-1].prev, limit))

    ordered = await ReadSession().scalars(select(Book.title).order_by(*NEWEST_FIRST))
    assert [title for each in pages for title in each.items] == list(ordered)
    assert [each.items for each in reversed(back)] == [each.items for each in pages]


async def test_beyond_the_end_is_an_empty_page() -> None:
    assert await page("1000", 7) == Page(items=[], next=None, prev="993")


@pytest.mark.parametrize("offset", [-1, MAX_OFFSET + 1])
async def test_depth_is_bounded(offset: int) -> None:
    with pytest.raises(ValidationError):
        PageParams(offset=offset)


async def test_a_page_costs_one_statement_without_counting(queries: QueryBudget) -> None:
    with queries.exactly(1) as sent:
        await BOOKS.page(ReadSession(), PageParams(), pattern="%")

    assert "count" not in sent.statements[0].lower()


async def test_links_lead_to_the_neighbours() -> None:
    class BookParams(PageParams):
        shelf: str | None = None

    params = BookParams(limit=3, shelf="a&b", offset=6)

    both = page_response(params, Page(items=[], next="9", prev="3")).headers

    assert both["Link"] == (
        '<?limit=3&shelf=a%26b&offset=9>; rel="next", <?limit=3&shelf=a%26b&offset=3>; rel="prev"'
    )
    assert "Link" not in page_response(params, Page(items=[])).headers
