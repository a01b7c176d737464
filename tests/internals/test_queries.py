"""The count of statements: in tests a budget, at run time a metric and a header."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from blockbuster import BlockBuster
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader
from sqlalchemy import insert, literal, select

from app.core.application import create_app
from app.core.database import PreparedRead, ReadSession, ReadSessionDep, WriteSession
from app.core.database.queries import Queries
from app.core.operations.telemetry import QueryCount
from app.settings import get_settings
from tests.core.budget import QueryBudget
from tests.internals.tables import Shelf, tables

ONE = PreparedRead(select(literal(1).label("one")))

router = APIRouter()


@router.get("/counted/{number}")
async def send_statements(number: int, session: ReadSessionDep) -> None:
    await asyncio.gather(*(session.fetch(ONE) for _ in range(number)))


@pytest.fixture
def counted_app() -> FastAPI:
    settings = get_settings().model_copy(update={"server_timing": True})
    return create_app(settings, router, title="counted", description="for tests")


@pytest.fixture
async def client(app: FastAPI, counted_app: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(counted_app)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_statements_of_each_lane_and_of_tasks_are_counted(app: FastAPI) -> None:
    async with tables():
        with Queries() as outer:
            with Queries() as inner:
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
    shown = r"at most 1 statements, sent were 2:\n1\. SELECT 1 AS one\n2\. SELECT"
    with pytest.raises(pytest.fail.Exception, match=shown), queries.at_most(1):
        await ReadSession().fetch(ONE)
        await ReadSession().fetch(ONE)
    with pytest.raises(pytest.fail.Exception, match="sent were 0"), queries.exactly(1):
        pass


async def test_answers_say_how_many_statements_they_took(client: AsyncClient) -> None:
    for number in (0, 3):
        response = await client.get(f"/counted/{number}")
        assert response.headers["Server-Timing"] == f'db;desc="{number} queries"'


async def test_by_default_they_do_not(app: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(app), base_url="http://test") as client:
        assert "Server-Timing" not in (await client.get("/livez")).headers


@pytest.fixture
def reader(counted_app: FastAPI) -> InMemoryMetricReader:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader]).get_meter("test")
    counted_app.add_middleware(QueryCount, server_timing=False, meter=meter)
    return reader


async def test_the_metric_has_the_route_and_not_the_path(
    reader: InMemoryMetricReader, client: AsyncClient, blockbuster: BlockBuster
) -> None:
    # The SDK takes locks, for microseconds.
    blockbuster.deactivate()
    for path in ("/counted/2", "/counted/3", "/nowhere"):
        await client.get(path)

    data = reader.get_metrics_data()
    assert data is not None
    metric = data.resource_metrics[0].scope_metrics[0].metrics[0]
    assert isinstance(metric.data, Histogram)
    sums = {
        str((point.attributes or {})["http.route"]): (point.count, point.sum)
        for point in metric.data.data_points
    }
    assert metric.name == "db.client.queries_per_request"
    assert sums == {"/counted/{number}": (2, 5), "unmatched": (1, 0)}
