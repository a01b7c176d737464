"""Keyset pages: whole, in order, both ways, by the index, and only with our own cursors."""

import base64
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, func, insert, select, text

from app.core.database import ReadSession, database, write_session
from app.core.pagination import Page, PageParams, paginate
from app.core.pagination.cursor import Keyset
from app.core.problems import BadRequest
from tests.core.tables import Book, tables

NEWEST_FIRST = (Book.added_at.desc(), Book.id.desc())
OLDEST_FIRST = (Book.added_at, Book.id)


@pytest.fixture(autouse=True)
async def _books(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        async with write_session() as session:
            # Four books share each moment: the second column has to tell them apart.
            rows = select(
                func.concat("book ", text("n")), func.to_timestamp(text("n / 4"))
            ).select_from(text("generate_series(1, 50) AS n"))
            await session.execute(insert(Book).from_select(["title", "added_at"], rows))
        yield


async def page(
    cursor: str | None, limit: int = 7, order_by: Sequence[Any] = NEWEST_FIRST
) -> Page[str]:
    params = PageParams(limit=limit, cursor=cursor)
    return await paginate(
        ReadSession(), select(Book), params, order_by=order_by, convert=lambda book: book.title
    )


async def in_order(order_by: Sequence[Any] = NEWEST_FIRST) -> list[str]:
    return list(await ReadSession().scalars(select(Book.title).order_by(*order_by)))


@pytest.mark.parametrize("order_by", [NEWEST_FIRST, OLDEST_FIRST])
@pytest.mark.parametrize("limit", [1, 7, 10, 49, 50, 100])
async def test_forward_then_backward_shows_everything_once(
    limit: int, order_by: Sequence[Any]
) -> None:
    pages = [await page(None, limit, order_by)]
    while pages[-1].next:
        pages.append(await page(pages[-1].next, limit, order_by))
    back = [pages[-1]]
    while back[-1].prev:
        back.append(await page(back[-1].prev, limit, order_by))

    assert [title for each in pages for title in each.items] == await in_order(order_by)
    assert [each.items for each in reversed(back)] == [each.items for each in pages]


async def test_rows_that_come_and_go_neither_skip_nor_repeat_others() -> None:
    first = await page(None)
    async with write_session() as session:
        session.add(Book(title="newer than all"))
        await session.execute(delete(Book).where(Book.title == first.items[-1]))

    second = await page(first.next)

    assert first.items[:-1] + second.items == (await in_order())[1:14]


async def test_an_empty_list_has_no_neighbours() -> None:
    async with write_session() as session:
        await session.execute(delete(Book))

    assert await page(None) == Page(items=[], next=None, prev=None)


async def test_a_page_is_one_range_of_the_index() -> None:
    keyset = Keyset.of(NEWEST_FIRST)
    row = (await ReadSession().rows(select(Book.added_at, Book.id).limit(1)))[0]
    statement = (
        select(Book).where(keyset.beyond(row, backward=False)).order_by(*NEWEST_FIRST).limit(8)
    )
    async with database.writer.connect() as connection:
        # A table this small is read whole unless that is ruled out.
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        compiled = statement.compile(connection.sync_engine, compile_kwargs={"literal_binds": True})
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {compiled}"))).scalars())

    assert "Index Scan Backward using ix_test_books_added_at_id" in plan
    assert "Index Cond: (ROW(added_at, id) < ROW(" in plan
    assert "Sort" not in plan


async def test_cursors_that_are_not_ours_are_refused() -> None:
    mine = (await page(None)).next
    assert mine is not None
    raw = bytearray(base64.urlsafe_b64decode(mine + "=" * (-len(mine) % 4)))
    raw[-3] ^= 1
    tampered = base64.urlsafe_b64encode(raw).decode().rstrip("=")

    for cursor in ("", "garbage", "äöü", "%00", mine[:-4], mine[4:], mine + "AAAA", tampered):
        with pytest.raises(BadRequest, match="cursor is not valid"):
            await page(cursor)
    with pytest.raises(BadRequest, match="cursor is not valid"):
        await page(mine, order_by=OLDEST_FIRST)


async def test_columns_in_different_directions_are_refused() -> None:
    with pytest.raises(ValueError, match="all ascending or all descending"):
        Keyset.of((Book.added_at.desc(), Book.id))
    with pytest.raises(ValueError, match="at least one column"):
        Keyset.of(())
