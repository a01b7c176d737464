"""The dashboard answers with what it can get."""

import pytest
from httpx2 import AsyncClient, Response
from sqlalchemy import text

from app.core.database import database
from app.dashboard import service
from tests.core.budget import QueryBudget


@pytest.fixture(autouse=True)
async def _post(client: AsyncClient) -> None:
    author = (await client.post("/users", json={"email": "ada@example.com", "name": "Ada"})).json()
    post = {"author_id": author["id"], "title": "Notes", "body": "x"}
    assert (await client.post("/posts", json=post)).status_code == 201


async def test_everything(client: AsyncClient, queries: QueryBudget) -> None:
    with queries.at_most(3):
        response = await client.get("/dashboard")

    assert response.status_code == 200
    dashboard = response.json()
    assert dashboard["users"]["registered"] == 1
    assert dashboard["posts"] == 1
    assert [post["title"] for post in dashboard["latest_posts"]] == ["Notes"]
    assert dashboard["missing"] == []


async def read_with_lock(client: AsyncClient, tables: str) -> Response:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service, "PART_TIMEOUT_S", 0.2)
        async with database.engine.begin() as connection:
            await connection.execute(text(f"LOCK TABLE {tables}"))
            return await client.get("/dashboard")


async def test_parts_that_hang_are_missing_and_the_rest_answers(client: AsyncClient) -> None:
    response = await read_with_lock(client, "posts")

    assert response.status_code == 200
    dashboard = response.json()
    assert dashboard["users"]["registered"] == 1
    assert (dashboard["posts"], dashboard["latest_posts"]) == (None, None)
    assert dashboard["missing"] == ["posts", "latest_posts"]


async def test_a_dashboard_without_any_part_is_no_success(client: AsyncClient) -> None:
    response = await read_with_lock(client, "posts, users")

    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
