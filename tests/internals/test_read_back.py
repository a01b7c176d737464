"""A write shows the row as a read shows it, whatever the database makes of the values."""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import (
    CHAR,
    Computed,
    Dialect,
    MetaData,
    Numeric,
    String,
    TypeDecorator,
    bindparam,
    func,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import TIMESTAMP
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.core.database import PreparedWrite, ReadSession, WriteSession, database
from tests.core.budget import QueryBudget


class Lower(TypeDecorator[str]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value and value.lower()


class Base(DeclarativeBase):
    metadata = MetaData()


class Item(Base):
    __tablename__ = "test_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))
    code: Mapped[str] = mapped_column(CHAR(5))
    made_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True, precision=0))
    name: Mapped[str] = mapped_column(Lower)
    note: Mapped[str | None]
    by_trigger: Mapped[str] = mapped_column(server_default="")
    twice: Mapped[Decimal] = mapped_column(Numeric(10, 2), Computed("price * 2"))
    changed_at: Mapped[datetime] = mapped_column(
        TIMESTAMP(timezone=True), server_default=func.now(), onupdate=func.clock_timestamp()
    )


class Keyed(Base):
    """Every part of its key is stored otherwise than it was given."""

    __tablename__ = "test_keyed"

    padded: Mapped[str] = mapped_column(CHAR(5), primary_key=True)
    rounded: Mapped[Decimal] = mapped_column(Numeric(10, 2), primary_key=True)
    lower: Mapped[str] = mapped_column(Lower, primary_key=True)
    price: Mapped[Decimal] = mapped_column(Numeric(10, 2))


TRIGGER = (
    "CREATE FUNCTION test_stamp() RETURNS trigger LANGUAGE plpgsql AS "
    "$$BEGIN NEW.by_trigger := NEW.by_trigger || 'x'; RETURN NEW; END$$",
    "CREATE TRIGGER test_stamp BEFORE INSERT OR UPDATE ON test_items "
    "FOR EACH ROW EXECUTE FUNCTION test_stamp()",
)
VALUES: dict[str, Any] = {
    "price": Decimal("0.1"),
    "code": "ab",
    "made_at": datetime(2026, 1, 1, 0, 0, 0, 600_000, tzinfo=UTC),
    "name": "Ada",
}
COLUMNS = list(Item.__table__.columns)
PARAMETERS: dict[str, Any] = {name: bindparam(f"new_{name}") for name in VALUES}
ADD = PreparedWrite(insert(Item).values(id=2, **PARAMETERS).returning(*COLUMNS))
CHANGE = PreparedWrite(update(Item).where(Item.id == 1).values(PARAMETERS).returning(*COLUMNS))
SHARP = {f"new_{name}": value for name, value in VALUES.items()}


@pytest.fixture(autouse=True)
async def _items(app: FastAPI) -> AsyncIterator[None]:
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        for statement in TRIGGER:
            await connection.execute(text(statement))
        await connection.execute(insert(Item).values(id=1, **VALUES | {"name": "first"}))
    yield
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
        await connection.execute(text("DROP FUNCTION test_stamp"))


def shown(item: Item | None) -> dict[str, Any]:
    return {column.key: str(getattr(item, column.key)) for column in COLUMNS}


async def load(session: ReadSession) -> Item:
    item = await session.scalar(select(Item).where(Item.id == 1))
    assert item is not None
    return item


async def add(session: WriteSession) -> Any:
    item = Item(id=2, **VALUES)
    session.add(item)
    await session.flush()
    return shown(item)


async def add_and_read_another(session: WriteSession) -> Any:
    item = Item(id=2, **VALUES)
    session.add(item)
    await load(session)
    return shown(item)


async def change(session: WriteSession) -> Any:
    item = await load(session)
    for name, value in VALUES.items():
        setattr(item, name, value)
    await session.flush()
    return shown(item)


async def insert_returning(session: WriteSession) -> Any:
    return shown(await session.returning(insert(Item).values(id=2, **VALUES).returning(Item)))


async def update_returning(session: WriteSession) -> Any:
    await load(session)
    statement = update(Item).where(Item.id == 1).values(VALUES).returning(Item)
    return shown(await session.returning(statement))


async def update_and_read(session: WriteSession) -> Any:
    await load(session)
    await session.execute(update(Item).where(Item.id == 1).values(VALUES))
    return shown(await load(session))


async def prepared_insert(session: WriteSession) -> Any:
    return (await session.write(ADD, **SHARP))[0]


async def prepared_update(session: WriteSession) -> Any:
    return (await session.write(CHANGE, **SHARP))[0]


async def prepared_update_and_read(session: WriteSession) -> Any:
    await load(session)
    await session.write(CHANGE, **SHARP)
    return shown(await load(session))


@pytest.mark.parametrize(
    "write",
    [
        add,
        add_and_read_another,
        change,
        insert_returning,
        update_returning,
        update_and_read,
        prepared_insert,
        prepared_update,
        prepared_update_and_read,
    ],
)
async def test_a_write_shows_what_a_read_shows(
    write: Callable[[WriteSession], Awaitable[dict[str, Any]]],
) -> None:
    async with WriteSession() as session:
        answer = await write(session)

    read = await ReadSession().scalar(select(Item).where(Item.name == "ada"))
    assert {name: str(value) for name, value in answer.items()} == shown(read)
    assert shown(read)["price"] == "0.10"


async def test_many_entities_are_read_back_at_once_and_none_at_the_commit(
    queries: QueryBudget,
) -> None:
    with queries.exactly(2):
        async with WriteSession() as session:
            items = [Item(id=number, **VALUES) for number in range(2, 12)]
            for item in items:
                session.add(item)
            await session.flush()
    with queries.exactly(1):
        async with WriteSession() as session:
            session.add(Item(id=12, **VALUES))

    assert {item.price.as_tuple().exponent for item in items} == {-2}


@pytest.mark.parametrize(
    "key",
    [("ab", 1, "x"), ("abcde", Decimal("0.123"), "x"), ("abcde", 1, "ADA"), ("abcde", 1, "x")],
)
async def test_a_key_that_the_database_stores_otherwise_is_read_back(key: tuple[Any, ...]) -> None:
    padded, rounded, lower = key
    async with WriteSession() as session:
        for number in (1, 2):
            price = Decimal(f"0.{number}")
            item = Keyed(padded=padded, rounded=rounded + number, lower=lower, price=price)
            session.add(item)
        await session.flush()
        answer = (item.padded, str(item.rounded), item.lower, str(item.price))
        item.price = Decimal("0.3")
        await session.flush()

    read = await ReadSession().scalar(select(Keyed).where(Keyed.price == Decimal("0.3")))
    assert read is not None
    assert answer == (read.padded, str(read.rounded), read.lower, "0.20")
    assert str(item.price) == str(read.price) == "0.30"
