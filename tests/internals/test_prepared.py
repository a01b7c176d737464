"""The prepared lane: the same values, errors and transactions as the engine gives."""

import asyncio
import enum
import json
import time
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from ipaddress import IPv4Address
from itertools import cycle
from time import monotonic
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from blockbuster import BlockBuster
from fastapi import FastAPI
from pydantic import BaseModel, Field, SecretStr, TypeAdapter
from pydantic_core import PydanticSerializationError
from sqlalchemy import (
    ARRAY,
    JSON,
    DateTime,
    Dialect,
    Enum,
    Float,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    TypeDecorator,
    Uuid,
    any_,
    bindparam,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    text,
    update,
)
from sqlalchemy.dialects.postgresql import INET, JSONB
from sqlalchemy.exc import DBAPIError, IntegrityError, MultipleResultsFound
from sqlalchemy.orm import DeclarativeBase, Mapped, joinedload, mapped_column, relationship

from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    WriteSession,
    columns_of,
    database,
    violated_constraint,
)
from app.core.database.errors import driver_error
from app.core.http.problems import Unavailable, Unprocessable
from app.core.http.serialization import json_bytes
from app.settings import get_settings


class Base(DeclarativeBase):
    metadata = MetaData()


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Cents(TypeDecorator[Decimal]):
    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value * 100)

    def process_result_value(self, value: int | None, dialect: Dialect) -> Decimal | None:
        return None if value is None else Decimal(value) / 100


class Maker(Base):
    __tablename__ = "test_makers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(20), unique=True)


class Thing(Base):
    __tablename__ = "test_things"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    made_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))
    day: Mapped[date | None]
    price: Mapped[Decimal | None] = mapped_column(Numeric(10, 2))
    rounded: Mapped[float | None] = mapped_column(Numeric(10, 2, asdecimal=False))
    exact: Mapped[Decimal | None] = mapped_column(Float(53, asdecimal=True))
    weight: Mapped[float | None]
    colour: Mapped[Colour | None]
    size: Mapped[str | None] = mapped_column(Enum("small", "large", name="test_size"))
    data: Mapped[Any | None] = mapped_column(JSONB)
    plain_json: Mapped[Any | None] = mapped_column(JSON)
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(String))
    relatives: Mapped[list[UUID] | None] = mapped_column(ARRAY(Uuid))
    lasts: Mapped[timedelta | None]
    raw: Mapped[bytes | None]
    fine: Mapped[bool | None]
    address: Mapped[Any | None] = mapped_column(INET)
    cents: Mapped[Decimal | None] = mapped_column(Cents)
    maker_id: Mapped[int | None] = mapped_column(ForeignKey("test_makers.id"))

    maker: Mapped[Maker | None] = relationship(lazy="raise_on_sql")


FULL = {
    "id": uuid4(),
    "made_at": datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "price": Decimal("12.30"),
    "rounded": 1.5,
    "exact": Decimal("2.5"),
    "weight": 0.1,
    "colour": Colour.BLUE,
    "size": "large",
    "data": {"a": [1, None, "\u00e9"]},
    "plain_json": ["x", {"y": 1}],
    "tags": ["a", "b,c", '"'],
    "relatives": [uuid4(), uuid4()],
    "lasts": timedelta(days=1, seconds=2),
    "raw": b"\x00\xff",
    "fine": True,
    "address": IPv4Address("10.0.0.1"),
    "cents": Decimal("0.25"),
    "maker_id": 1,
}
EMPTY = dict.fromkeys(FULL) | {"id": uuid4()}
COLUMNS = [getattr(Thing, name) for name in FULL]

ALL = select(Thing).order_by(Thing.id)
INSERT = insert(Thing).values({name: bindparam(f"new_{name}") for name in FULL}).returning(Thing)
# Every type as a parameter, and as a constant of the text.
COMPARABLE = [column for column in COLUMNS if column.key != "plain_json"]
PARAMETERS: list[tuple[Any, dict[str, Any]]] = [
    (ALL.where(column == bindparam("value")), {"value": FULL[column.key]}) for column in COMPARABLE
]
CONSTANTS: list[tuple[Any, dict[str, Any]]] = [
    *((ALL.where(column == FULL[column.key]), {}) for column in COMPARABLE),
    *((ALL.where(column.in_([FULL[column.key]])), {}) for column in COMPARABLE),
    (ALL.where(Thing.data.contains({"a": [1]})), {}),
    (ALL.where(Thing.weight < float("inf")), {}),
    (
        ALL.where(
            func.to_tsvector("english", "a cat").op("@@")(func.to_tsquery("english", "cats"))
        ),
        {},
    ),
]
STATEMENTS: list[tuple[Any, dict[str, Any]]] = [
    (ALL, {}),
    *PARAMETERS,
    *CONSTANTS,
    (ALL.where(Thing.maker_id.is_not_distinct_from(bindparam("value"))), {"value": None}),
    (ALL.where(Thing.id == any_(bindparam("ids", type_=ARRAY(Uuid)))), {"ids": [FULL["id"]]}),
    (ALL.where(Thing.id == any_(bindparam("ids", type_=ARRAY(Uuid)))), {"ids": []}),
    (ALL.where(Thing.id == FULL["id"], Thing.colour == Colour.BLUE).limit(1), {}),
    (ALL.where(Thing.made_at == FULL["made_at"], Thing.price == Decimal("12.30")), {}),
    (ALL.where(Thing.size.in_(["small", "large"])), {}),
    (
        select(func.coalesce(func.max(Thing.price), 0).label("n"), literal("$1").label("t"))
        .where(Thing.id == bindparam("id"), Thing.colour == Colour.BLUE)
        .limit(5),
        {"id": FULL["id"]},
    ),
    (select(Maker).where(Maker.name != "it's \\ a % :name $1"), {}),
    (select(func.count().label("n"), func.sum(Thing.price).label("total")), {}),
    (select(Thing.id, Maker.name).join(Thing.maker).limit(bindparam("n")), {"n": 1}),
]


@pytest.fixture(autouse=True)
async def _tables(app: FastAPI) -> AsyncIterator[None]:
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(insert(Maker), [{"id": 1, "name": "Ada"}])
        await connection.execute(insert(Thing), [FULL, EMPTY])
    yield
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)


async def by_the_engine(statement: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    async with database.autocommit_engine.connect() as connection:
        # On a connection and not a session an entity is its columns.
        result = await connection.execute(statement, values)
        return [dict(row) for row in result.mappings()]


@pytest.mark.parametrize(("statement", "values"), STATEMENTS)
async def test_a_select_gives_what_the_engine_gives(statement: Any, values: dict[str, Any]) -> None:
    expected = await by_the_engine(statement, values)

    found = await ReadSession().fetch(PreparedRead(statement), **values)

    assert found == expected
    for row, same in zip(found, expected, strict=True):
        assert [type(value) for value in row.values()] == [type(value) for value in same.values()]


async def test_the_statements_find_rows() -> None:
    statements = PARAMETERS + CONSTANTS[: 2 * len(COMPARABLE)]
    counts = [len(await ReadSession().fetch(PreparedRead(one), **vs)) for one, vs in statements]

    assert set(counts) == {1}


@pytest.mark.parametrize("row", [FULL, EMPTY])
async def test_a_write_takes_what_the_engine_takes(row: dict[str, Any]) -> None:
    values = {f"new_{name}": value for name, value in (row | {"id": uuid4()}).items()}

    async with WriteSession() as session:
        (by_lane,) = await session.write(PreparedWrite(INSERT), **values)
    again = values | {"new_id": uuid4()}
    async with database.engine.begin() as connection:
        by_engine = dict((await connection.execute(INSERT, again)).mappings().one())

    assert by_lane | {"id": None} == by_engine | {"id": None}


class Stamped(Base):
    __tablename__ = "test_stamped"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    state: Mapped[str] = mapped_column(default="new", onupdate="changed")
    stamp: Mapped[Decimal] = mapped_column(
        Cents, default=lambda: Decimal("0.10"), onupdate=lambda: Decimal("0.20")
    )


async def test_defaults_that_python_computes_are_sent() -> None:
    add = insert(Stamped).values(id=1, name=bindparam("new_name")).returning(Stamped)
    change = update(Stamped).values(name=bindparam("new_name")).returning(Stamped)

    async with WriteSession() as session:
        (added,) = await session.write(PreparedWrite(add), new_name="a")
        (changed,) = await session.write(PreparedWrite(change), new_name="b")

    assert added == {"id": 1, "name": "a", "state": "new", "stamp": Decimal("0.10")}
    assert changed == {"id": 1, "name": "b", "state": "changed", "stamp": Decimal("0.20")}


BROKEN: list[tuple[Any, dict[str, Any]]] = [
    (insert(Maker).values(id=bindparam("n"), name=bindparam("s")), {"n": 2, "s": "Ada"}),
    (insert(Maker).values(id=bindparam("n"), name=bindparam("s")), {"n": 2, "s": None}),
    (insert(Maker).values(id=bindparam("n"), name=bindparam("s")), {"n": 2, "s": "x" * 21}),
    (insert(Maker).values(id=bindparam("n"), name=bindparam("s")), {"n": 2**40, "s": "x"}),
    (insert(Maker).values(id=bindparam("n"), name=bindparam("s")), {"n": "two", "s": "x"}),
    (delete(Maker).where(Maker.id == bindparam("n")), {"n": 1}),
    (select(literal_column("1 / 0").label("n")).where(Maker.id == bindparam("n")), {"n": 1}),
    (select(literal_column("missing")).select_from(Maker), {}),
]


@pytest.mark.parametrize(("statement", "values"), BROKEN)
async def test_errors_are_those_of_the_engine(statement: Any, values: dict[str, Any]) -> None:
    with pytest.raises((DBAPIError, Unprocessable)) as by_engine:
        async with database.autocommit_engine.connect() as connection:
            await connection.execute(statement, values)

    with pytest.raises((DBAPIError, Unprocessable)) as by_lane:
        await database.fetch(PreparedWrite(statement), values)

    ours, theirs = by_lane.value, by_engine.value
    assert type(ours) is type(theirs)
    if isinstance(ours, Unprocessable):
        assert str(ours) == str(theirs)
        assert str(driver_error(ours)) == str(driver_error(theirs))
        return
    assert isinstance(ours, DBAPIError)
    assert isinstance(theirs, DBAPIError)
    assert type(ours.orig) is type(theirs.orig)
    assert str(ours.orig) == str(theirs.orig)
    assert ours.connection_invalidated == theirs.connection_invalidated
    if isinstance(ours, IntegrityError):
        assert violated_constraint(ours) == violated_constraint(theirs)  # type: ignore[arg-type]


async def test_an_argument_that_the_driver_refuses_leaves_no_lock() -> None:
    single = Database()
    single.open(get_settings(), pool_size=1)
    with pytest.raises(Unprocessable, match=r"Not valid: n\."):
        await single.fetch(
            PreparedWrite(delete(Maker).where(Maker.id == bindparam("n"))), {"n": "x"}
        )

    async with database.autocommit_engine.connect() as connection:
        locks = text("SELECT count(*) FROM pg_locks WHERE relation = 'test_makers'::regclass")
        assert (await connection.execute(locks)).scalar() == 0
    await single.close()


async def test_values_of_the_statement_are_part_of_its_text() -> None:
    # A LIMIT that is a parameter is planned anew each time.
    sql = PreparedRead(ALL.where(Thing.fine.is_(True)).limit(20)).sql

    assert "LIMIT 20" in sql
    assert "$1" not in sql


def dialect() -> Any:
    return database.engine.dialect


async def test_dots_in_names_make_objects_and_no_object_is_null() -> None:
    statement = (
        select(Thing.id, Maker.id.label("maker.id"), Maker.name.label("maker.name"), Thing.fine)
        .join(Thing.maker, isouter=True)
        .order_by(Thing.fine)
    )

    rows = await ReadSession().fetch(PreparedRead(statement))

    assert rows == [
        {"id": FULL["id"], "maker": {"id": 1, "name": "Ada"}, "fine": True},
        {"id": EMPTY["id"], "maker": None, "fine": None},
    ]
    assert list(rows[0]) == ["id", "maker", "fine"]


class MakerRead(BaseModel):
    id: int
    name: str


class ThingRead(BaseModel):
    id: UUID
    maker: MakerRead | None
    heavy: bool | None
    data: Any


async def test_columns_are_those_of_the_schema() -> None:
    columns = columns_of(ThingRead, Thing, heavy=Thing.weight > 1)
    statement = PreparedRead(select(*columns).join(Thing.maker, isouter=True).order_by(Thing.fine))

    rows = await ReadSession().fetch(statement)

    assert [ThingRead.model_validate(row).model_dump() for row in rows] == rows
    assert [(row["maker"], row["heavy"]) for row in rows] == [
        ({"id": 1, "name": "Ada"}, False),
        (None, None),
    ]


async def test_the_columns_have_the_names_of_the_answer() -> None:
    class Related(BaseModel):
        name: str = Field(alias="displayName")

    class Shown(BaseModel):
        maker_id: int = Field(alias="makerId")
        maker: Related = Field(serialization_alias="madeBy")
        is_new: bool = Field(alias="isNew")

    columns = columns_of(Shown, Thing, is_new=Thing.fine)

    assert [column.name for column in columns] == ["makerId", "madeBy.displayName", "isNew"]


async def test_columns_that_do_not_match_the_schema_are_named() -> None:
    with pytest.raises(ValueError, match=r"ThingRead\.heavy is no column of Thing"):
        columns_of(ThingRead, Thing)
    with pytest.raises(ValueError, match="MakerRead has no field age"):
        columns_of(MakerRead, Maker, age=func.now())


class Named(BaseModel):
    shown_as: str = Field(alias="shownAs")


async def test_json_is_what_pydantic_writes() -> None:
    class Shown(BaseModel):
        id: UUID
        made_at: datetime | None
        day: date | None
        price: Decimal | None
        weight: float | None
        size: str | None
        data: Any
        tags: list[str] | None
        relatives: list[UUID] | None
        fine: bool | None

    statement = select(*(getattr(Thing, name) for name in Shown.model_fields)).order_by(Thing.id)
    rows = await ReadSession().fetch(PreparedRead(statement))

    assert orjson.loads(json_bytes(rows)) == [
        orjson.loads(Shown.model_validate(row).model_dump_json()) for row in rows
    ]


@pytest.mark.parametrize(
    "value",
    [
        2**70,
        float("nan"),
        timedelta(days=1, microseconds=5),
        clock(1, 2, tzinfo=UTC),
        IPv4Address("10.0.0.1"),
        b"abc",
        Colour.BLUE,
        {1: {"b"}},
        Named(shownAs="x"),
    ],
)
async def test_a_value_is_json_as_pydantic_writes_it(value: Any) -> None:
    assert json_bytes([value]) == TypeAdapter(Any).dump_json([value], by_alias=True)


@pytest.mark.parametrize("kind", [JSON, JSONB])
@pytest.mark.parametrize(
    "document",
    [
        '{"a": 1, "a": [null, true, "\\u00e9", 1.0, -0.5e-3]}',
        "123456789012345678901234567890",
        "1e400",
        "[" * 300 + "]" * 300,
    ],
)
async def test_a_json_column_has_the_value_that_pythons_parser_reads(
    document: str, kind: Any
) -> None:
    column = cast(bindparam("document", type_=String), kind).label("found")
    statement = select(column, cast(column, String).label("as_text"))

    for row in (
        (await by_the_engine(statement, {"document": document}))[0],
        await ReadSession().fetch_one(PreparedRead(statement), document=document),
    ):
        assert row
        assert repr(row["found"]) == repr(json.loads(row["as_text"]))


async def test_a_value_without_a_form_in_json_is_an_error() -> None:
    with pytest.raises(PydanticSerializationError, match="object"):
        json_bytes({"value": object()})


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (select(Thing.id, func.count()), "label"),
        (select(Thing.id, Maker.id), "two columns are called id"),
        (select(Thing.id.label("a"), Maker.id.label("a.id")), "a is both"),
        (select(Thing.id).where(Thing.id.in_(bindparam("ids", expanding=True))), "any_"),
        (select(Thing).options(joinedload(Thing.maker)), "no loader options"),
        (select(Thing.id, text("1 AS n")), r"no text\(\)"),
    ],
)
async def test_what_cannot_be_prepared_says_why(statement: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreparedRead(statement)


async def test_parameters_that_are_missing_or_unknown_are_named() -> None:
    statement = PreparedRead(select(Maker).where(Maker.id == bindparam("number")))

    with pytest.raises(TypeError, match=r"missing \['number'\], unknown \['nummer'\]"):
        await ReadSession().fetch(statement, nummer=1)


async def test_several_rows_are_not_one() -> None:
    with pytest.raises(MultipleResultsFound):
        await ReadSession().fetch_one(PreparedRead(ALL))


ADD = PreparedWrite(insert(Maker).values(id=bindparam("n"), name=bindparam("s")))
NAMES = PreparedRead(select(Maker.name).order_by(Maker.id))
RENAME = PreparedWrite(
    update(Maker)
    .where(Maker.id == bindparam("maker"))
    .values(name=bindparam("new"))
    .returning(Maker.name)
)


async def test_a_write_that_comes_first_is_rolled_back_as_well() -> None:
    with pytest.raises(ZeroDivisionError):
        async with WriteSession() as session:
            await session.write(ADD, n=2, s="Bob")
            raise ZeroDivisionError

    assert await ReadSession().fetch(NAMES) == [{"name": "Ada"}]


async def test_the_lane_and_the_orm_share_one_transaction() -> None:
    async with WriteSession() as session:
        session.add(Maker(id=2, name="Bob"))
        assert await session.fetch(NAMES) == [{"name": "Ada"}, {"name": "Bob"}]
        await session.write(ADD, n=3, s="Cid")
        assert await session.scalars(select(Maker.name).order_by(Maker.id)) == ["Ada", "Bob", "Cid"]

    assert len(await ReadSession().fetch(NAMES)) == 3


async def test_a_single_write_stands_and_calls_back_whatever_follows() -> None:
    called = []

    async def callback() -> None:
        called.append(True)

    with pytest.raises(ZeroDivisionError):
        async with WriteSession() as session:
            session.after_commit(callback)
            assert await session.autocommit(RENAME, maker=1, new="Eve") == [{"name": "Eve"}]
            raise ZeroDivisionError

    assert await ReadSession().fetch(NAMES) == [{"name": "Eve"}]
    assert called == [True]


async def test_a_single_write_is_the_only_statement_of_its_session() -> None:
    async with WriteSession() as session:
        await session.autocommit(RENAME, maker=1, new="Eve")
        with pytest.raises(RuntimeError, match="has committed"):
            await session.scalars(select(Maker))
        with pytest.raises(RuntimeError, match="has committed"):
            await session.autocommit(RENAME, maker=1, new="Eva")

    async with WriteSession() as session:
        await session.fetch(NAMES)
        with pytest.raises(RuntimeError, match="use `write`"):
            await session.autocommit(RENAME, maker=1, new="Eva")


async def test_a_connection_that_the_server_closed_is_replaced() -> None:
    single = Database()
    single.open(get_settings(), pool_size=1)
    session = ReadSession(single)
    backend = PreparedRead(select(func.pg_backend_pid().label("pid")))
    (before,) = await session.fetch(backend)

    async with database.autocommit_engine.connect() as connection:
        await connection.execute(select(func.pg_terminate_backend(before["pid"])))
    (after,) = await session.fetch(backend)

    assert after != before
    # Also while the statement runs: once more for a read, and an error for a write.
    hang_up = PreparedRead(select(func.pg_terminate_backend(func.pg_backend_pid()).label("x")))
    with pytest.raises(Unavailable):
        await session.fetch(hang_up)
    assert await session.fetch(backend) != [after]
    await single.close()


async def test_a_server_that_refuses_connections_is_unavailable() -> None:
    url = database.engine.url.set(
        drivername="postgresql",
        username="refused",
        password="x",  # noqa: S106 - of the role made below
    )
    settings = get_settings().model_copy(
        update={"database_url": SecretStr(url.render_as_string(hide_password=False))}
    )
    single = Database()
    single.open(settings, pool_size=1)
    async with database.engine.begin() as connection:
        await connection.execute(text("CREATE ROLE refused LOGIN PASSWORD 'x' CONNECTION LIMIT 0"))
    try:
        with pytest.raises(Unavailable):
            await ReadSession(single).fetch(NAMES)
        with pytest.raises(Unavailable):
            async with WriteSession(single) as session:
                await session.autocommit(ADD, n=2, s="Bob")
    finally:
        await single.close()
        async with database.engine.begin() as connection:
            await connection.execute(text("DROP ROLE refused"))


async def test_connections_are_replaced_when_they_are_old() -> None:
    settings = get_settings().model_copy(update={"database_connection_lifetime_s": 0.05})
    single = Database()
    single.open(settings, pool_size=1)
    backend = PreparedRead(select(func.pg_backend_pid().label("pid")))
    seen = []
    for _ in range(3):
        seen += [row["pid"] for row in await ReadSession(single).fetch(backend)]
        await asyncio.sleep(0.06)
    await single.close()

    assert len(set(seen)) == 3


async def test_connections_of_the_same_age_are_not_replaced_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spread = cycle([0.8, 1.0])
    monkeypatch.setattr("app.core.database.engine.random.uniform", lambda *_: next(spread))
    settings = get_settings().model_copy(update={"database_connection_lifetime_s": 1000})
    double = Database()
    double.open(settings, pool_size=2)
    slept = func.pg_sleep(0.05).label("slept")
    backend = PreparedRead(select(func.pg_backend_pid().label("pid"), slept))

    async def backends() -> set[int]:
        both = await asyncio.gather(*(ReadSession(double).fetch(backend) for _ in range(2)))
        return {rows[0]["pid"] for rows in both}

    before = await backends()
    later_s = monotonic() + 900
    monkeypatch.setattr("app.core.database.engine.monotonic", lambda: later_s)
    assert len(before & await backends()) == 1
    await double.close()


@pytest.mark.parametrize("prepared", [True, False])
async def test_a_cancelled_request_leaves_no_query_behind(prepared: bool) -> None:
    session = ReadSession()
    running = PreparedRead(
        select(func.count().label("n"))
        .select_from(text("pg_stat_activity"))
        .where(text("state = 'active' AND query LIKE '%cancelled_request%'"))
        .where(text("pid <> pg_backend_pid() AND datname = current_database()"))
    )

    async def count() -> int:
        return int((await session.fetch(running))[0]["n"])

    # Before, while and after the statement is parsed, and while it runs.
    for moment in range(20):
        slow = select(func.pg_sleep(30).label(f"cancelled_request_{moment}"))
        task = asyncio.create_task(
            session.fetch(PreparedRead(slow)) if prepared else session.rows(slow)
        )
        await asyncio.sleep(moment * 0.0003)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(20):
            while await count():
                await asyncio.sleep(0.01)


async def test_a_statement_that_was_only_parsed_keeps_no_locks(blockbuster: BlockBuster) -> None:
    blockbuster.deactivate()
    single = Database()
    single.open(get_settings(), pool_size=1)
    await ReadSession(single).fetch(NAMES)  # which opens the connection
    task = asyncio.create_task(ReadSession(single).fetch(PreparedRead(select(Thing.id))))
    for _ in range(3):
        await asyncio.sleep(0)
    # The server has parsed it, and the task does not know yet.
    time.sleep(0.3)  # noqa: ASYNC251
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    locks = PreparedRead(
        select(func.count().label("n"))
        .select_from(text("pg_locks"))
        .where(text("relation = 'test_things'::regclass"))
    )
    assert await ReadSession().fetch(locks) == [{"n": 0}]
    await single.close()
