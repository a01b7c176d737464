"""An `Idempotency-Key` belongs to the authenticated caller, and not to an address."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from sqlalchemy import select

from app.core import security
from app.core.database import ReadSession
from app.core.http.idempotency import IdempotentSessionDep
from tests.core.callers import acting_as
from tests.internals.idempotent import make_app
from tests.internals.tables import Book, tables


@pytest.fixture
async def books(app: FastAPI, database: None) -> AsyncIterator[FastAPI]:
    router = APIRouter()

    @router.post("/books", dependencies=[security.requires("books:write")])
    async def create(session: IdempotentSessionDep, caller: security.Caller) -> str:
        session.add(Book(title=caller.subject))
        return caller.subject

    async with tables():
        yield await asyncio.to_thread(make_app, router)


async def send(books: FastAPI, headers: dict[str, str], address: str = "192.0.2.1") -> Response:
    transport = ASGITransport(books, client=(address, 1))
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post("/books", headers={"Idempotency-Key": "k-1", **headers})


async def test_two_callers_at_one_address_share_no_answer(books: FastAPI) -> None:
    subjects = ("ada", "bob", "ada")
    answers = [await send(books, acting_as(each, ["books:write"])) for each in subjects]

    assert [each.json() for each in answers] == ["ada", "bob", "ada"]
    assert ["idempotent-replayed" in each.headers for each in answers] == [False, False, True]
    assert sorted(await ReadSession().scalars(select(Book.title))) == ["ada", "bob"]


async def test_a_caller_may_repeat_from_another_address(books: FastAPI) -> None:
    ada = acting_as("ada", ["books:write"])
    answers = [await send(books, ada, address) for address in ("192.0.2.1", "192.0.2.2")]

    assert ["idempotent-replayed" in each.headers for each in answers] == [False, True]


async def test_a_caller_without_the_right_gets_no_stored_answer(books: FastAPI) -> None:
    assert (await send(books, acting_as("ada", ["books:write"]))).is_success

    assert (await send(books, acting_as("ada", []))).status_code == 403
    assert (await send(books, {})).status_code == 401
