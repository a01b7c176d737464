"""A repeated write enqueues no second job and invalidates nothing again."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import func, select

from app.core.cache import cache, invalidate_after_commit
from app.core.database import ReadSession
from app.core.http.idempotency import IdempotentSessionDep
from app.core.jobs import enqueue, job
from app.core.jobs.table import background_job
from tests.internals.declared import ANYBODY
from tests.internals.idempotent import make_app
from tests.internals.tables import Book, tables


@job
async def nothing() -> None:
    pass


@pytest.fixture
async def books(app: FastAPI, database: None) -> AsyncIterator[AsyncClient]:
    router = APIRouter(dependencies=ANYBODY)

    @router.post("/books")
    async def create(session: IdempotentSessionDep) -> None:
        session.add(Book(title="x"))
        await enqueue(session, nothing)
        invalidate_after_commit(session, "books")

    transport = ASGITransport(await asyncio.to_thread(make_app, router))
    async with tables(), AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_a_repetition_enqueues_and_invalidates_nothing(
    books: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    invalidated: list[tuple[str, ...]] = []

    async def invalidate(*tags: str) -> None:
        invalidated.append(tags)

    monkeypatch.setattr(cache, "invalidate", invalidate)
    for _ in range(3):
        response = await books.post("/books", headers={"Idempotency-Key": "k-1"})
        assert response.is_success

    jobs = select(func.count()).select_from(background_job)
    assert await ReadSession().scalar(jobs) == 1
    assert len(invalidated) == 1
