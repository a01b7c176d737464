"""The example, beyond its own tests: refusals, its caching, and the bytes of its hot path."""

import runpy
from datetime import datetime
from unittest.mock import patch
from uuid import UUID, uuid4

import pytest
from httpx2 import AsyncClient

from app.core.database import database as opened
from app.core.pagination import Page
from app.posts import schemas, service
from app.posts.schemas import PostCreate, PostDetail, PostRead
from app.users.jobs import logger, send_welcome

ADA = {"email": "ada@example.com", "name": "Ada Lovelace"}
POST = {"title": "Notes", "body": "On the Analytical Engine."}


@pytest.fixture
async def user(client: AsyncClient) -> dict[str, str]:
    response = await client.post("/users", json=ADA)
    created: dict[str, str] = response.json()
    return created


@pytest.fixture
async def path(user: dict[str, str]) -> str:
    return f"/users/{user['id']}"


async def test_text_that_cannot_be_stored_is_refused(client: AsyncClient) -> None:
    response = await client.post("/users", json=ADA | {"name": "a\x00b"})

    assert response.status_code == 422


async def test_the_fields_of_a_change_are_optional_and_have_no_default(client: AsyncClient) -> None:
    schemas = (await client.get("/openapi.json")).json()["components"]["schemas"]

    change = schemas["UserUpdate"]
    assert "required" not in change
    assert set(change["properties"]) == {"email", "name", "bio"}
    assert not any("default" in field for field in change["properties"].values())
    assert change["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(
    "data", [{"name": None}, {"email": None}, {"email": "x"}, {"id": str(uuid4())}]
)
async def test_an_invalid_change_is_refused(
    client: AsyncClient, path: str, data: dict[str, object]
) -> None:
    assert (await client.patch(path, json=data)).status_code == 422


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=many", "sort=name"])
async def test_a_page_that_cannot_be_is_refused_by_name(client: AsyncClient, query: str) -> None:
    response = await client.get(f"/users?{query}")

    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == f"query.{query.split('=')[0]}"


async def test_a_client_that_has_the_user_is_sent_none(client: AsyncClient, path: str) -> None:
    etag = (await client.get(path)).headers["etag"]
    again = await client.get(path, headers={"If-None-Match": etag})
    await client.patch(path, json={"name": "Ada King"})
    changed = await client.get(path, headers={"If-None-Match": etag})

    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (changed.status_code, changed.json()["name"]) == (200, "Ada King")


async def test_a_change_that_fails_leaves_the_cached_value(client: AsyncClient, path: str) -> None:
    await client.post("/users", json=ADA | {"email": "grace@example.com"})
    await client.get(path)

    response = await client.patch(path, json={"email": "grace@example.com"})

    assert response.status_code == 409
    assert (await client.get(path)).headers["cache-status"].startswith("app; hit")


async def test_lists_show_who_was_registered(client: AsyncClient, path: str) -> None:
    for number in range(3):
        before = (await client.get("/users")).json()["items"]
        await client.post("/users", json=ADA | {"email": f"{number}@example.com"})
        assert len((await client.get("/users")).json()["items"]) == len(before) + 1


async def test_the_bytes_are_those_of_the_model(client: AsyncClient, user: dict[str, str]) -> None:
    for tags in ([], ["a", "b"], []):
        published = await client.post("/posts", json=POST | {"author_id": user["id"], "tags": tags})
        path = f"/posts/{published.json()['id']}"
        changed = await client.patch(path, json={"title": "Notes, revised"})
        for response in (published, changed, await client.get(path)):
            post = PostDetail.model_validate_json(response.content)
            assert post.model_dump_json() == response.text

    for limit in (2, 20):
        response = await client.get("/posts", params={"limit": limit})
        page = Page[PostRead].model_validate_json(response.content)
        assert page.model_dump_json() == response.text


def test_a_new_field_of_a_post_is_inserted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dated(PostCreate):
        created_at: datetime

    monkeypatch.setattr(schemas, "PostCreate", Dated)
    insert = runpy.run_path(service.__file__)["PUBLISH"]

    assert insert.parameters - service.PUBLISH.parameters == {"new_created_at"}


async def test_the_mail_provider_is_called_without_a_connection(user: dict[str, str]) -> None:
    with patch.object(logger, "info", side_effect=lambda *_: held.append(opened.gate.in_use)):
        held: list[int] = []
        await send_welcome(UUID(user["id"]))

    assert held == [0]
