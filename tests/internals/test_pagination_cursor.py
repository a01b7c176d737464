"""Keyset pages: whole, in order, both ways, by the index, and only with our own cursors."""

import base64
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import product
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from pydantic import Field
from sqlalchemy import (
    ARRAY,
    CHAR,
    Column,
    DateTime,
    Dialect,
    Float,
    Integer,
    Interval,
    MetaData,
    Numeric,
    Select,
    Text,
    Time,
    TypeDecorator,
    Uuid,
    bindparam,
    delete,
    func,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm.exc import UnmappedColumnError

from app.core.database import ReadSession, Row, WriteSession, database
from app.core.http.problems import BadRequest
from app.core.pagination import Page, PageParams, PreparedList, page_response, paginate
from app.core.pagination.keyset import Keyset, ranges
from tests.core.budget import QueryBudget
from tests.core.plans import plan
from tests.internals.tables import Book, Shelf, tables

NEWEST_FIRST = (Book.added_at.desc(), Book.id.desc())
OLDEST_FIRST = (Book.added_at, Book.id)
MIXED = (Book.title.desc(), Book.added_at, Book.id.desc())
NULLS_LAST = (Book.rating.desc().nulls_last(), Book.title, Book.id)
NULLS_FIRST = (Book.rating.desc(), Book.id)
NULLS_INSIDE = (Book.title, Book.rating.desc().nulls_last(), Book.id)
ORDERS = [NEWEST_FIRST, OLDEST_FIRST, MIXED, NULLS_LAST, NULLS_FIRST, NULLS_INSIDE]
COLUMNS = (Book.id, Book.title, Book.added_at, Book.rating)


@dataclass
class Books:
    """A list of the identifiers of books in one order, in one of the two lanes."""

    order_by: Sequence[Any]
    prepared: PreparedList | None

    async def page(self, cursor: str | None, limit: int) -> Page[UUID]:
        params = PageParams(limit=limit, cursor=cursor)
        if self.prepared is None:
            return await paginate(
                ReadSession(),
                select(Book),
                params,
                order_by=self.order_by,
                convert=lambda book: book.id,
            )
        rows = await self.prepared.page(ReadSession(), params)
        return Page(items=[row["id"] for row in rows.items], next=rows.next, prev=rows.prev)

    async def all(self) -> list[UUID]:
        return list(await ReadSession().scalars(select(Book.id).order_by(*self.order_by)))


@pytest.fixture(params=range(len(ORDERS)))
def order_by(request: pytest.FixtureRequest) -> Sequence[Any]:
    number: int = request.param
    return ORDERS[number]


@pytest.fixture(params=["entities", "prepared"])
def books(request: pytest.FixtureRequest, order_by: Sequence[Any]) -> Books:
    prepared = PreparedList(select(*COLUMNS), order_by=order_by)
    return Books(order_by, prepared if request.param == "prepared" else None)


async def add(session: WriteSession, first: int, last: int) -> None:
    """Books that share titles, moments and ratings, so that each column has to tell some apart."""
    rows = select(
        func.concat("book ", text("n % 5")),
        func.to_timestamp(text("n / 4")),
        text("nullif(n % 4, 0)"),
    ).select_from(text(f"generate_series({first}, {last}) AS n"))
    await session.execute(insert(Book).from_select(["title", "added_at", "rating"], rows))


@pytest.fixture(autouse=True)
async def _books(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        async with WriteSession() as session:
            await add(session, 1, 50)
        yield


@pytest.mark.parametrize("limit", [1, 7, 20, 49, 50, 100])
async def test_forward_then_backward_shows_everything_once(books: Books, limit: int) -> None:
    pages = [await books.page(None, limit)]
    while pages[-1].next:
        pages.append(await books.page(pages[-1].next, limit))
    back = [pages[-1]]
    while back[-1].prev:
        back.append(await books.page(back[-1].prev, limit))

    assert [book for each in pages for book in each.items] == await books.all()
    assert [each.items for each in reversed(back)] == [each.items for each in pages]


@pytest.mark.parametrize("run", range(3))
async def test_rows_that_come_and_go_neither_skip_nor_repeat_others(books: Books, run: int) -> None:
    chance = random.Random(run)  # noqa: S311
    survivors = set(await books.all())
    seen: list[UUID] = []
    cursor: str | None = None
    number = 50
    while True:
        page = await books.page(cursor, chance.choice([3, 7, 20]))
        seen += page.items
        if page.next is None:
            break
        # Sometimes the very row on which the cursor stands.
        gone = chance.sample(await books.all(), 3) + chance.sample(page.items, chance.randint(0, 1))
        async with WriteSession() as session:
            await session.execute(delete(Book).where(Book.id.in_(gone)))
            start = chance.randint(1, number)
            await add(session, start, start + 2)
        survivors -= set(gone)
        cursor = page.next

    assert len(seen) == len(set(seen))
    assert survivors <= set(seen)


async def test_an_empty_list_has_no_neighbours(books: Books) -> None:
    async with WriteSession() as session:
        await session.execute(delete(Book))

    assert await books.page(None, 7) == Page(items=[], next=None, prev=None)


def literal_sql(statement: Select[Any]) -> str:
    engine = database.engine.sync_engine
    return str(statement.compile(engine, compile_kwargs={"literal_binds": True}))


@pytest.mark.parametrize(
    ("order_by", "index", "conditions"),
    [
        (NEWEST_FIRST, "ix_test_books_added_at_id", ["(ROW(added_at, id) < ROW("]),
        (OLDEST_FIRST, "ix_test_books_added_at_id", ["(ROW(added_at, id) > ROW("]),
        (NULLS_LAST, "ix_test_books_rating_title_id", ["(rating <= ", "(rating IS NULL)"]),
        (NULLS_INSIDE, "ix_test_books_title_rating_id", ["((title)::text >= "]),
    ],
)
async def test_a_page_is_a_range_of_the_index(
    order_by: Sequence[Any], index: str, conditions: list[str]
) -> None:
    keyset = Keyset.of(order_by)
    where = [column.column.is_not(None) for column in keyset.keys]
    row = (await ReadSession().rows(select(*(k.column for k in keyset.keys)).where(*where)))[0]
    values = [
        bindparam(None, value, k.column.type) for k, value in zip(keyset.keys, row, strict=True)
    ]
    conditions_of_pages = ranges(keyset.keys, values)
    pages = [select(Book).where(each).order_by(*order_by).limit(8) for each in conditions_of_pages]
    plans = [await plan(literal_sql(page)) for page in pages]

    for found, condition in zip(plans, conditions, strict=True):
        assert index in found
        assert f"Index Cond: {condition}" in found
        assert "Sort" not in found


async def test_columns_before_another_direction_are_one_range() -> None:
    keyset = Keyset.of((Book.added_at.desc(), Book.title.desc(), Book.id))
    values = [bindparam(None, None, key.type) for key in keyset.keys]

    (condition,) = ranges(keyset.keys, values)

    assert str(condition).startswith("(test_books.added_at, test_books.title) <= (")


async def test_without_its_index_a_page_is_no_range() -> None:
    async with database.engine.begin() as connection:
        await connection.execute(text("DROP INDEX ix_test_books_added_at_id"))
    beyond = ranges(Keyset.of(NEWEST_FIRST).keys, [func.now(), func.gen_random_uuid()])[0]

    page = select(Book).where(beyond).order_by(*NEWEST_FIRST).limit(8)
    found = await plan(literal_sql(page))

    assert "Index Cond" not in found


async def test_a_page_costs_one_statement_without_counting(queries: QueryBudget) -> None:
    books = PreparedList(select(*COLUMNS), order_by=NEWEST_FIRST)
    with queries.exactly(1) as first:
        page = await books.page(ReadSession(), PageParams())
    with queries.exactly(1) as second:
        await books.page(ReadSession(), PageParams(cursor=page.next))

    assert "count" not in (first.statements + second.statements)[0].lower()


async def test_a_list_has_parameters_of_its_own() -> None:
    async with WriteSession() as session:
        shelf = Shelf(name="top")
        session.add(shelf)
        await session.flush()
        for number in range(3):
            session.add(Book(title=str(number), shelf_id=shelf.id))
    on_shelf = PreparedList(
        select(Book.title, Book.id).where(Book.shelf_id == bindparam("shelf")),
        order_by=(Book.title.desc(), Book.id),
    )

    async def page(cursor: str | None = None) -> Page[Row]:
        params = PageParams(limit=2, cursor=cursor)
        return await on_shelf.page(ReadSession(), params, shelf=shelf.id)

    first = await page()
    second = await page(first.next)

    assert [row["title"] for row in first.items + second.items] == ["2", "1", "0"]


async def test_links_lead_to_the_neighbours() -> None:
    class BookParams(PageParams):
        shelf: str | None = None
        tags: tuple[str, ...] = ()
        author_id: int | None = Field(None, alias="authorId")

    params = BookParams(limit=3, shelf="a&b", tags=("x", "y"), authorId=5, cursor="here")

    both = page_response(params, Page(items=[], next="n", prev="p")).headers
    first = page_response(BookParams(), Page(items=[], next="n")).headers
    neither = page_response(params, Page(items=[])).headers

    query = "limit=3&shelf=a%26b&tags=x&tags=y&authorId=5"
    assert both["Link"] == (f'<?{query}&cursor=n>; rel="next", <?{query}&cursor=p>; rel="prev"')
    assert first["Link"] == '<?cursor=n>; rel="next"'
    assert "Link" not in neither


async def test_cursors_that_are_not_ours_are_refused() -> None:
    newest, oldest = Books(NEWEST_FIRST, None), Books(OLDEST_FIRST, None)
    mine = (await newest.page(None, 7)).next
    assert mine is not None
    raw = bytearray(base64.urlsafe_b64decode(mine + "=" * (-len(mine) % 4)))
    raw[-3] ^= 1
    tampered = base64.urlsafe_b64encode(raw).decode().rstrip("=")

    for cursor in ("", "garbage", "äöü", "%00", mine[:-4], mine[4:], mine + "AAAA", tampered):
        with pytest.raises(BadRequest, match="cursor is not valid"):
            await newest.page(cursor, 7)
    with pytest.raises(BadRequest, match="cursor is not valid"):
        await oldest.page(mine, 7)


async def test_a_cursor_with_any_bit_changed_is_refused() -> None:
    books = Books(NEWEST_FIRST, None)
    mine = (await books.page(None, 7)).next
    assert mine is not None
    raw = base64.urlsafe_b64decode(mine + "=" * (-len(mine) % 4))
    changed = [
        raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :]
        for at, bit in product(range(len(raw)), range(8))
    ]
    shortened = [raw[:end] for end in range(len(raw))]
    lengthened = [raw + bytes([byte]) for byte in range(256)]

    for other in (*changed, *shortened, *lengthened):
        cursor = base64.urlsafe_b64encode(other).decode().rstrip("=")
        with pytest.raises(BadRequest, match="cursor is not valid"):
            await books.page(cursor, 7)


async def test_cursors_of_an_older_version_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books(NEWEST_FIRST, None)
    mine = (await books.page(None, 7)).next
    monkeypatch.setattr("app.core.pagination.cursor.VERSION", 99)

    with pytest.raises(BadRequest, match="cursor is not valid"):
        await books.page(mine, 7)


async def test_orders_that_cannot_work_are_refused() -> None:
    for order_by in ((), (Book.title, Book.rating)):
        with pytest.raises(ValueError, match="never NULL"):
            Keyset.of(order_by)
    with pytest.raises(ValueError, match="not selected"):
        PreparedList(select(Book.title), order_by=OLDEST_FIRST)


class Minutes(TypeDecorator[timedelta]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: timedelta | None, dialect: Dialect) -> int | None:
        return None if value is None else value // timedelta(minutes=1)

    def process_result_value(self, value: int | None, dialect: Dialect) -> timedelta | None:
        return None if value is None else timedelta(minutes=value)


class State(Enum):
    OPEN = "o"
    CLOSED = "c"


class Base(DeclarativeBase):
    metadata = MetaData()


class Sorted(Base):
    """A column of each kind of type, with values that are hard to write as text."""

    __tablename__ = "test_sorted"

    id: Mapped[int] = mapped_column(primary_key=True)
    amount: Mapped[Decimal] = mapped_column(Numeric)
    weight: Mapped[float]
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    takes: Mapped[timedelta] = mapped_column(Minutes)
    digest: Mapped[bytes]
    code: Mapped[str] = mapped_column(CHAR(5))
    label: Mapped[str] = mapped_column("title", Text)
    state: Mapped[State]
    fine: Mapped[bool]
    number: Mapped[str] = mapped_column(Uuid(as_uuid=False))
    made_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    day: Mapped[date]
    clock: Mapped[time] = mapped_column(Time(timezone=True))


SORTED = [column for name, column in vars(Sorted).items() if name in Sorted.__mapper__.columns]
FILL = """
INSERT INTO test_sorted SELECT
    n, CASE WHEN n > 5 THEN 'NaN' ELSE n / 3.0 END,
    CASE WHEN n > 5 THEN 'Infinity' ELSE n / 3.0 END,
    n / 3.0, n / 4, CASE WHEN n > 5 THEN '\\xff00'::bytea ELSE '' END, 'a' || n / 4,
    CASE WHEN n > 5 THEN '"\\' || chr(1) || ' ' ELSE '' END,
    (CASE WHEN n > 5 THEN 'OPEN' ELSE 'CLOSED' END)::state, n > 5, gen_random_uuid(),
    CASE WHEN n > 9 THEN 'infinity' ELSE now() + n / 4 * interval '0.000001 s' END,
    CASE WHEN n > 9 THEN 'infinity' ELSE current_date + n / 4 END, current_time
FROM generate_series(1, 12) AS n
"""


@pytest.fixture
async def _sorted() -> AsyncIterator[None]:
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(text(FILL))
    yield
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)


@pytest.mark.usefixtures("_sorted")
@pytest.mark.parametrize("prepared", [False, True])
@pytest.mark.parametrize("column", SORTED, ids=lambda column: column.key)
async def test_values_of_each_type_come_back_as_they_went(column: Any, prepared: bool) -> None:
    for order_by in ((column, Sorted.id), (column.desc(), Sorted.id)):
        lane = PreparedList(select(Sorted), order_by=order_by)
        seen: list[int] = []
        params = PageParams(limit=3)
        while len(seen) < 30:
            if prepared:
                rows = await lane.page(ReadSession(), params)
                page = Page[int](items=[row["id"] for row in rows.items], next=rows.next)
            else:
                page = await paginate(
                    ReadSession(),
                    select(Sorted),
                    params,
                    order_by=order_by,
                    convert=lambda row: row.id,
                )
            seen += page.items
            params = PageParams(limit=3, cursor=page.next)
            if page.next is None:
                break

        everything = await ReadSession().scalars(select(Sorted.id).order_by(*order_by))
        assert seen == everything


@pytest.mark.parametrize(
    "type_",
    [
        Interval(),
        INET(),
        JSONB(),
        ARRAY(Integer),
        Float(asdecimal=True),
        Numeric(10, 2, asdecimal=False),
    ],
    ids=str,
)
async def test_a_type_that_a_cursor_cannot_carry_is_refused(type_: Any) -> None:
    with pytest.raises(ValueError, match="no cursor can carry"):
        Keyset.of((Column("x", type_).asc(), Book.id))


async def test_a_column_in_an_object_sorts_a_prepared_list() -> None:
    async with WriteSession() as session:
        for name in ("a", "b"):
            shelf = Shelf(name=name)
            session.add(shelf)
            await session.flush()
            session.add(Book(title=name, shelf_id=shelf.id))
    by_shelf = PreparedList(
        select(Book.id, Book.title, Shelf.name.label("shelf.name")).join(Book.shelf),
        order_by=(Shelf.name, Book.id),
    )

    first = await by_shelf.page(ReadSession(), PageParams(limit=1))
    second = await by_shelf.page(ReadSession(), PageParams(limit=1, cursor=first.next))

    assert [row["title"] for row in first.items + second.items] == ["a", "b"]


async def test_a_column_of_another_model_is_refused() -> None:
    with pytest.raises(UnmappedColumnError):
        await paginate(
            ReadSession(), select(Book), PageParams(), order_by=(Shelf.name, Shelf.id), convert=str
        )
