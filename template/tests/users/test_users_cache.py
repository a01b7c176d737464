"""A user is read from the cache until it is changed."""

from httpx2 import AsyncClient


async def test_a_user_is_cached_until_changed(client: AsyncClient) -> None:
    user = {"email": "ada@example.com", "name": "Ada Lovelace"}
    path = f"/users/{(await client.post('/users', json=user)).json()['id']}"

    statuses = []
    for change in ({}, {}, {"name": "Ada King"}, {}):
        if change:
            await client.patch(path, json=change)
        response = await client.get(path)
        statuses.append((response.headers["cache-status"], response.json()["name"]))

    assert statuses == [
        ("app; fwd=miss; stored", "Ada Lovelace"),
        ("app; hit", "Ada Lovelace"),
        ("app; fwd=miss; stored", "Ada King"),
        ("app; hit", "Ada King"),
    ]


async def test_a_change_that_fails_leaves_the_cached_value(client: AsyncClient) -> None:
    user = {"email": "ada@example.com", "name": "Ada Lovelace"}
    path = f"/users/{(await client.post('/users', json=user)).json()['id']}"
    await client.post("/users", json=user | {"email": "grace@example.com"})
    await client.get(path)

    response = await client.patch(path, json={"email": "grace@example.com"})

    assert response.status_code == 409
    assert (await client.get(path)).headers["cache-status"] == "app; hit"
