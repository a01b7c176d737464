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
