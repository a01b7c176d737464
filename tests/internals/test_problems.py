"""Every error that a client sees is a problem document."""

from collections.abc import AsyncIterator
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.middleware.cors import CORSMiddleware

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


@router.get("/things/{number}")
@router.patch("/things/{number}")
async def one_thing(number: int) -> int:
    return number


class Circle(BaseModel):
    kind: Literal["circle"]


class Square(BaseModel):
    kind: Literal["square"]


class Drawing(BaseModel):
    shape: Annotated[Circle | Square, Field(discriminator="kind")]
    size: Literal[1, 2] = 1
    at: date | None = None
    name: Annotated[str, Field(max_length=9, pattern="^[a-z]*$")] = ""

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        raise ValueError(f"no such name: {name}, " + "which is not in the list, " * 100)


@router.post("/drawings")
async def draw(drawing: Drawing) -> None:
    pass


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
    response = await client.delete("/things/7")

    problem(response, 405)
    # The path has several routes.
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, PATCH"


async def test_options_names_all_methods(client: AsyncClient) -> None:
    response = await client.options("/things/7")

    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["allow"] == "GET, HEAD, OPTIONS, PATCH"
    assert (await client.options("/things")).headers["allow"] == "OPTIONS, POST"
    assert (await client.options("/livez")).headers["allow"] == "GET, HEAD, OPTIONS"
    problem(await client.options("/nowhere"), 404)


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


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/nowhere", {}, 404),
        ("DELETE", "/things", {}, 405),
        ("POST", "/things", {"json": {}}, 422),
        ("POST", "/things", {"json": {"size": 1}}, 409),
        ("POST", "/things", {"json": {"size": 2}}, 503),
        ("POST", "/things", {"json": {"size": 3}}, 500),
        ("POST", "/things", {"content": b" " * 2_000_000}, 413),
        ("POST", "/things", {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415),
    ],
)
async def test_every_error_passes_through_the_middleware_of_the_team(
    client: AsyncClient, things: FastAPI, method: str, path: str, options: Any, status: int
) -> None:
    things.add_middleware(CORSMiddleware, allow_origins=["https://shop.example"])
    headers = options.pop("headers", {}) | {"Origin": "https://shop.example"}

    response = await client.request(method, path, headers=headers, **options)

    problem(response, status)
    assert response.headers["access-control-allow-origin"] == "https://shop.example"


async def test_an_unexpected_error_goes_on_to_the_server(things: FastAPI) -> None:
    async with AsyncClient(transport=ASGITransport(things), base_url="http://test") as client:
        with pytest.raises(RuntimeError, match="a secret detail"):
            await client.post("/things", json={"size": 3})


async def test_an_error_of_the_middleware_of_the_team_is_a_problem_too(
    client: AsyncClient, things: FastAPI
) -> None:
    class Failing:
        def __init__(self, app: Any) -> None: ...

        async def __call__(self, *_: Any) -> None:
            raise RuntimeError("a secret detail")

    things.add_middleware(Failing)

    assert "secret" not in problem(await client.get("/livez"), 500)["detail"]


SECRET = "s3cret" * 100


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (f'{{"shape": {{"kind": "{SECRET}"}}}}', "body.shape"),
        (f'{{"shape": {{"kind": "circle"}}, "size": "{SECRET}"}}', "body.size"),
        (f'{{"shape": {{"kind": "circle"}}, "at": "{SECRET}"}}', "body.at"),
        (f'{{"shape": {{"kind": "circle"}}, "name": "{SECRET}"}}', "body.name"),
        (f'{{"shape": {{"kind": "circle"}}, "name": "{"a" * 9}"}}', "body.name"),
        (f'{{"shape": "{SECRET}"}}', "body.shape"),
        (f'"{SECRET}"', "body"),
        (f'{{"shape": "{SECRET}', "body"),
    ],
)
async def test_an_error_does_not_show_the_value_and_is_short(
    client: AsyncClient, content: str, field: str
) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/drawings", content=content, headers=headers)

    (error,) = problem(response, 422)["errors"]
    assert error["field"].startswith(field)
    assert len(error["message"]) <= 200
    assert "s3cret" not in response.text


HALF = 250_000


@pytest.mark.parametrize(
    "content",
    [
        b"[" * HALF + b"]" * HALF,
        b'{"a":' * (HALF // 2) + b"1" + b"}" * (HALF // 2),
        b'{"size":' + b"[" * 190 + b"]" * 190 + b"}",
        b"[" * HALF,
        b'{"size":' + b"1" * HALF + b"}",
        b'{"size":1e' + b"1" * HALF + b"}",
        b'{"size":1,"' + b"k" * HALF + b'":1}',
        b'{"size":"' + b"\\u00e9" * (HALF // 6) + b'"}',
        b'"' + b"\xff" * HALF + b'"',
        b"\0" * HALF,
        b" " * HALF,
    ],
    ids=range(11),
)
async def test_json_of_any_form_gets_a_short_answer(client: AsyncClient, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await client.post("/strict", content=content, headers=headers)

    assert response.status_code in (400, 422)
    assert problem(response, response.status_code)
    assert len(response.content) < 1000


async def test_the_errors_that_are_built_and_answered_have_a_bound(
    client: AsyncClient, things: FastAPI
) -> None:
    built: list[int] = []
    answer: Any = things.exception_handlers[RequestValidationError]

    async def count(request: Request, error: RequestValidationError) -> Response:
        built.append(len(error.errors()))
        response: Response = await answer(request, error)
        return response

    things.add_exception_handler(RequestValidationError, count)  # type: ignore[arg-type]
    most = get_settings().max_json_values
    for number in (most - 1, most):
        body = {"size": 1} | {f"unknown{key}": 1 for key in range(number)}
        response = await client.post("/strict", json=body)
        if number < most:
            assert len(problem(response, 422)["errors"]) == 20
            assert len(response.content) < 5000
        else:
            problem(response, 413)

    assert built == [most - 1]


async def test_openapi_says_how_errors_look(client: AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    responses = document["paths"]["/things"]["post"]["responses"]

    assert set(responses) == {"200", "4XX", "5XX"}
    assert "U+0000" in responses["4XX"]["description"]
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
