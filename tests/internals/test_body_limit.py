"""Requests that cost too much work are refused before it is done."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Request
from httpx2 import ASGITransport, AsyncClient, Response
from pydantic import BaseModel, ConfigDict

from app.core.http.body_limit import RequestLimits, Upload, has_more_values
from app.core.http.problems import install

MAX_BYTES = 1000
MAX_VALUES = 10

app = FastAPI()
install(app)


class Thing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    items: list[int] = []


@app.post("/raw")
async def read_all(request: Request) -> int:
    return len(await request.body())


@app.post("/things")
async def make_thing(thing: Thing) -> int:
    return len(thing.items)


UPLOAD = Upload(("image/png", "image/webp"), max_bytes=3 * MAX_BYTES)


router = APIRouter(prefix="/pictures")


@router.post("", openapi_extra=UPLOAD)
async def add_picture(request: Request) -> int:
    return len(await request.body())


NOTE = Upload(("application/json",), max_bytes=3 * MAX_BYTES)


class Note(BaseModel):
    text: str


@app.post("/notes", openapi_extra=NOTE)
async def add_note(note: Note) -> int:
    return len(note.text)


app.include_router(router)


@pytest.fixture
async def client() -> AsyncIterator[AsyncClient]:
    limited = RequestLimits(app, max_body_bytes=MAX_BYTES, max_json_values=MAX_VALUES)
    transport = ASGITransport(limited, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def in_pieces(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 7):
        yield content[start : start + 7]


@pytest.mark.parametrize(
    ("media_type", "size", "status"),
    [
        ("image/png", 3 * MAX_BYTES, 200),
        ("Image/WebP; quality=1", 0, 200),
        ("image/png", 3 * MAX_BYTES + 1, 413),
        ("application/json", 1, 415),
        ("image/png2", 1, 415),
        ("", 1, 415),
    ],
)
async def test_an_upload_has_media_types_and_a_limit_of_its_own(
    client: AsyncClient, media_type: str, size: int, status: int
) -> None:
    headers = {"Content-Type": media_type} if media_type else {}
    response = await client.post("/pictures", content=b"x" * size, headers=headers)

    assert response.status_code == status
    if status == 415:
        problem(response, 415, "Expected one of image/png, image/webp.")
        assert response.headers["accept"] == "image/png, image/webp"
    if status == 413:
        problem(response, 413, f"over {3 * MAX_BYTES} bytes")


async def test_a_json_route_has_a_limit_of_its_own_and_keeps_its_schema(
    client: AsyncClient,
) -> None:
    for size, status in ((2 * MAX_BYTES, 200), (3 * MAX_BYTES, 413)):
        response = await client.post("/notes", json={"text": "x" * size})
        assert response.status_code == status

    body = app.openapi()["paths"]["/notes"]["post"]["requestBody"]
    assert body["content"]["application/json"] == {"schema": {"$ref": "#/components/schemas/Note"}}


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_the_limit_on_bytes_holds(client: AsyncClient, is_chunked: bool) -> None:
    for size in (0, MAX_BYTES, MAX_BYTES + 1):
        content = b"x" * size
        response = await client.post("/raw", content=in_pieces(content) if is_chunked else content)
        if size > MAX_BYTES:
            problem(response, 413, f"over {MAX_BYTES} bytes")
            assert response.headers["connection"] == "close"
        else:
            assert response.json() == size


async def test_a_body_in_http_2_needs_no_announcement() -> None:
    sent: list[Any] = []
    received = iter([b"x" * MAX_BYTES, b"x"])

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": next(received), "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "http_version": "2", "method": "POST", "path": "/raw"}
    scope |= {"headers": [], "query_string": b"", "root_path": ""}
    await RequestLimits(app, max_body_bytes=MAX_BYTES, max_json_values=1)(scope, receive, send)

    assert sent[0]["status"] == 413


def problem(response: Response, status: int, detail: str) -> None:
    assert (response.status_code, response.json()["status"]) == (status, status)
    assert response.headers["content-type"] == "application/problem+json"
    assert detail in response.json()["detail"]


@pytest.mark.parametrize(
    "document",
    [
        {f"unknown{number}": 1 for number in range(MAX_VALUES + 1)},
        {"items": ["wrong"] * (MAX_VALUES + 1)},
        [[1]] * (MAX_VALUES + 1),
    ],
)
@pytest.mark.parametrize("media_type", ["application/json", "Application/Problem+JSON;charset=u"])
async def test_json_of_too_many_values_is_not_decoded(
    client: AsyncClient, document: Any, media_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[Request] = []
    monkeypatch.setattr(Request, "json", decoded.append)
    # The first header of a name counts.
    headers = [("Content-Type", media_type), ("Content-Type", "text/plain")]
    content = json.dumps(document).encode()

    for body in (content, in_pieces(content)):
        response = await client.post("/things", content=body, headers=headers)
        problem(response, 413, f"over {MAX_VALUES} values")
    assert decoded == []


async def test_values_within_the_limit_are_decoded(client: AsyncClient) -> None:
    full = {"items": [1] * MAX_VALUES}
    text = {"text, with, commas": ", " * MAX_VALUES + '\\"' + ","}

    assert (await client.post("/things", json=full)).json() == MAX_VALUES
    assert (await client.post("/things", json=text)).status_code == 422
    # Only JSON has values.
    csv = await client.post("/raw", content=b"1," * 2 * MAX_VALUES)
    assert csv.json() == 4 * MAX_VALUES


@pytest.mark.parametrize(
    ("document", "values"),
    [
        ("[1, 2, 3]", 3),
        (r'["a,\",\\", "\\", {"b": "c,,"}]', 3),
        (r'{"a\\": 1, "b": [1, 2]}', 3),
    ],
)
def test_values_are_counted_outside_of_strings(document: str, values: int) -> None:
    assert json.loads(document) is not None
    content = document.encode()

    assert has_more_values(content, values - 1)
    assert not has_more_values(content, values)


def test_utf_16_hides_no_values() -> None:
    # U+2200 has the byte of a quotation mark.
    content = json.dumps(["\u2200", *range(MAX_VALUES)], ensure_ascii=False).encode("utf-16-le")

    assert json.loads(content)
    assert has_more_values(content, MAX_VALUES)


@pytest.mark.parametrize("codings", [["gzip"], ["br"], ["GZIP"], ["identity", "gzip"]])
async def test_an_encoded_body_is_refused_by_name(client: AsyncClient, codings: list[str]) -> None:
    headers = [("Content-Encoding", coding) for coding in codings]
    response = await client.post("/raw", content=b"x", headers=headers)

    problem(response, 415, "Content-Encoding")
    assert response.headers["accept-encoding"] == "identity"


async def test_a_body_with_the_coding_identity_is_read(client: AsyncClient) -> None:
    headers = {"Content-Encoding": "identity"}

    assert (await client.post("/raw", content=b"x", headers=headers)).json() == 1
