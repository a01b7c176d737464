"""A user is read from the cache until it is changed."""

import pytest
from httpx2 import AsyncClient

from tests.core.budget import QueryBudget

ADA = {"email": "ada@example.com", "name": "Ada Lovelace"}


@pytest.fixture
async def path(client: AsyncClient) -> str:
    return f"/users/{(await client.post('/users', json=ADA)).json()['id']}"


async def test_a_user_is_cached_until_changed(
    client: AsyncClient, path: str, queries: QueryBudget
) -> None:
    for name in (ADA["name"], "Ada King"):
        with queries.exactly(1):
            miss = await client.get(path)
        with queries.exactly(0):
            hit = await client.get(path)
        assert miss.headers["cache-status"] == "app; fwd=miss; stored"
        assert hit.headers["cache-status"].startswith("app; hit; ttl=")
        assert miss.json() == hit.json()
        assert hit.json()["name"] == name
        await client.patch(path, json={"name": "Ada King"})


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
