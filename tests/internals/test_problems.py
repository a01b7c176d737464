"""Every error that a client sees is a problem document."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import BaseModel, ConfigDict

from app.core.application import create_app
from app.core.http.problems import Conflict, Unavailable
from app.settings import get_settings

router = APIRouter()


class Thing(BaseModel):
    size: int


@router.post("/things")
async def make_thing(thing: Thing, limit: int = 1) -> Thing:
    if thing.size == 1:
        raise Conflict("There is one already.")
    if thing.size == 2:
        raise Unavailable("Come back later.")
    raise RuntimeError("a secret detail")


class StrictThing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    size: int


@router.post("/strict")
async def make_strict_thing(thing: StrictThing) -> StrictThing:
    return thing


@pytest.fixture
def things() -> FastAPI:
    return create_app(get_settings(), router, title="things", description="for tests")


@pytest.fixture
async def client(app: FastAPI, things: FastAPI) -> AsyncIterator[AsyncClient]:
    transport = ASGITransport(things, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def problem(response: Response, status: int) -> dict[str, Any]:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = response.json()
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    return body


async def test_unknown_path(client: AsyncClient) -> None:
    problem(await client.get("/nowhere"), 404)


async def test_wrong_method(client: AsyncClient) -> None:
    response = await client.delete("/things")

    problem(response, 405)
    assert response.headers["allow"]


async def test_a_domain_error_carries_its_sentence(client: AsyncClient) -> None:
    body = problem(await client.post("/things", json={"size": 1}), 409)

    assert body["detail"] == "There is one already."


async def test_unavailable_says_when_to_come_back(client: AsyncClient) -> None:
    response = await client.post("/things", json={"size": 2})

    problem(response, 503)
    assert response.headers["retry-after"] == "1"


async def test_an_unexpected_error_tells_nothing(client: AsyncClient) -> None:
    response = await client.post("/things", json={"size": 3})

    problem(response, 500)
    assert "secret" not in response.text
    # The server closes the connection.
    assert response.headers["connection"] == "close"


async def pieces(number: int) -> AsyncIterator[bytes]:
    for _ in range(number):
        yield b" " * 65536


async def test_a_body_that_is_too_large_is_refused(client: AsyncClient) -> None:
    size = get_settings().max_body_bytes + 1

    announced = await client.post("/things", content=b" " * size)
    chunked = await client.post("/things", content=pieces(size // 65536 + 1))

    problem(announced, 413)
    problem(chunked, 413)


async def test_thousands_of_errors_are_not_all_answered(client: AsyncClient) -> None:
    body = {"size": 1} | {f"unknown{number}": 1 for number in range(5000)}

    response = await client.post("/strict", json=body)

    assert len(problem(response, 422)["errors"]) == 20
    assert len(response.content) < 5000


async def test_openapi_says_how_errors_look(client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    responses = document["paths"]["/things"]["post"]["responses"]

    assert set(responses) == {"200", "4XX", "5XX"}
    assert set(responses["4XX"]["content"]) == {"application/problem+json"}


@pytest.mark.parametrize(
    ("query", "content", "field"),
    [
        ("", '{"size": "big"}', "body.size"),
        ("", "{}", "body.size"),
        ("", "[]", "body"),
        ("", '{"size": ', "body"),
        ("?limit=many", '{"size": 1}', "query.limit"),
    ],
)
async def test_invalid_input_names_the_field(
    client: AsyncClient, query: str, content: str, field: str
) -> None:
    response = await client.post(
        f"/things{query}", content=content, headers={"content-type": "application/json"}
    )

    body = problem(response, 422)
    assert field in body["detail"]
    assert [error["field"].startswith(field) for error in body["errors"]] == [True]
