"""Liveness, readiness, and a database that cannot be reached."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from httpx2 import AsyncClient
from sqlalchemy import func, select
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from app.core.database import ReadSession, database
from dev.processes import free_port
from tests.core.serving import serving


async def test_live(client: AsyncClient) -> None:
    response = await client.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready(client: AsyncClient) -> None:
    response = await client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "ok"
    assert set(response.json()["checks"].values()) == {"ok"}


async def test_a_service_that_is_busy_is_not_taken_away(client: AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(PoolTimeoutError):
            while True:
                await stack.enter_async_context(database.engine.connect())

        response = await client.get("/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["database"] == "all connections in use"


async def test_a_database_that_hangs_is_said_in_time(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang() -> None:
        await ReadSession().scalar(select(func.pg_sleep(3)))

    monkeypatch.setattr(database, "ping", hang)
    async with asyncio.timeout(2):
        response = await client.get("/readyz")

    assert response.status_code == 503
    assert response.json()["checks"]["database"] == "no answer within 1 s"


def test_without_a_database_the_process_lives_and_is_not_ready() -> None:
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    with serving(DATABASE_URL=nowhere) as client:
        assert client.get("/livez").status_code == 200

        response = client.get("/readyz")

        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["checks"]["database"] == "The database cannot be reached."
        assert "secret" not in response.text
        assert client.get("/livez").status_code == 200
