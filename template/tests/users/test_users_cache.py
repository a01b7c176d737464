"""A user is read from the cache until it is changed."""

from httpx2 import AsyncClient

from tests.core.budget import QueryBudget

ADA = {"email": "ada@example.com", "name": "Ada Lovelace"}


async def test_a_user_is_cached_until_changed(client: AsyncClient, queries: QueryBudget) -> None:
    path = f"/users/{(await client.post('/users', json=ADA)).json()['id']}"
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
