"""Users and posts have an owner, the caller that has made them; only the owner changes them."""

from httpx2 import AsyncClient

from tests.core.callers import acting_as

ADA = {"email": "ada@example.com", "name": "Ada Lovelace"}
POST = {"title": "Notes", "body": "On the Analytical Engine."}
GRACE = "grace"


async def test_nobody_publishes_in_the_name_of_others(client: AsyncClient) -> None:
    user = (await client.post("/users", json=ADA)).json()
    post = POST | {"author_id": user["id"]}

    refused = await client.post("/posts", json=post, headers=acting_as(GRACE))

    assert refused.status_code == 409
    assert "to be the author" in refused.json()["detail"]
    assert (await client.post("/posts", json=post)).status_code == 201


async def test_what_belongs_to_others_is_not_found_by_a_change(client: AsyncClient) -> None:
    user = (await client.post("/users", json=ADA)).json()
    post = (await client.post("/posts", json=POST | {"author_id": user["id"]})).json()

    for path, change in ((f"/users/{user['id']}", "name"), (f"/posts/{post['id']}", "title")):
        before = (await client.get(path)).json()
        for data in ({change: "Mine"}, {}):
            refused = await client.patch(path, json=data, headers=acting_as(GRACE))
            assert refused.status_code == 404
        assert (await client.get(path)).json() == before
        assert (await client.patch(path, json={change: "Mine"})).json()[change] == "Mine"


async def test_each_caller_lists_its_own_users(client: AsyncClient) -> None:
    user = (await client.post("/users", json=ADA)).json()

    own = await client.get("/users/owner/me")
    other = await client.get("/users/owner/me", headers=acting_as(GRACE))

    assert (own.json()["items"], other.json()["items"]) == ([user], [])
    assert own.headers["cache-control"].startswith("private")


async def test_a_read_alone_allows_no_write(client: AsyncClient) -> None:
    reader = acting_as(GRACE, ["users:read"])

    assert (await client.get("/users/owner/me", headers=reader)).status_code == 200
    refused = await client.post("/users", json=ADA, headers=reader)
    assert refused.status_code == 403
    assert 'scope="users:write"' in refused.headers["WWW-Authenticate"]
