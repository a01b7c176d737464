"""The statements of a block, and the budget of a test."""

import asyncio

import pytest
from fastapi import FastAPI
from sqlalchemy import func, insert, literal, select

from app.core.database import PreparedRead, ReadSession, WriteSession
from tests.core.budget import QueryBudget
from tests.internals.tables import Shelf, tables

ONE = PreparedRead(select(literal(1).label("one")))


async def test_statements_of_each_lane_and_of_tasks_are_counted(
    app: FastAPI, queries: QueryBudget
) -> None:
    async with tables():
        with queries.at_most(8) as outer:
            with queries.at_most(4) as inner:
                await asyncio.gather(*(ReadSession().fetch(ONE) for _ in range(3)))
                await ReadSession().scalar(select(literal(2)))
            async with WriteSession() as session:
                await session.execute(insert(Shelf).values(name="top"))
                session.add(Shelf(name="bottom"))
                await session.fetch(ONE)

    assert len(inner.statements) == 4
    # Two INSERTs, the row of the entity, and the last one.
    assert len(outer.statements) == 4 + 4
    assert outer.statements[-1].startswith("SELECT 1")


async def test_a_budget_that_is_overspent_shows_the_statements(
    app: FastAPI, queries: QueryBudget
) -> None:
    with queries.at_most(1), queries.exactly(1):
        await ReadSession().fetch(ONE)
    shown = "0 to 1 statements, sent were 2:\nSELECT 1 AS one\nSELECT"
    with pytest.raises(pytest.fail.Exception, match=shown), queries.at_most(1):
        await ReadSession().fetch(ONE)
        await ReadSession().fetch(ONE)
    with pytest.raises(pytest.fail.Exception, match="sent were 0"), queries.exactly(1):
        pass


async def test_the_rows_of_each_lane_are_counted(app: FastAPI, queries: QueryBudget) -> None:
    numbers = select(func.generate_series(1, 5).label("number"))
    prepared = PreparedRead(numbers)
    for _ in range(2):
        with queries.exactly(2, rows=10) as outer, queries.at_most(2, rows=10) as sent:
            # The first time, the driver prepares the statement.
            await ReadSession().fetch(prepared)
            await ReadSession().scalars(numbers)
        assert (sent.rows, outer.rows) == (10, 10)
    shown = "9 rows, returned were 10:\nSELECT"
    with pytest.raises(pytest.fail.Exception, match=shown), queries.at_most(2, rows=9):
        await ReadSession().fetch(prepared)
        await ReadSession().fetch(prepared)
