"""A client that repeats a registration with its `Idempotency-Key` registers one user."""

from httpx2 import AsyncClient

from tests.users.test_users import ADA


async def test_a_repeated_registration_has_one_effect(client: AsyncClient) -> None:
    key = {"Idempotency-Key": "8e03978e-40d5-43dd-bc93-6894a57f9324"}

    first = await client.post("/users", json=ADA, headers=key)
    again = await client.post("/users", json=ADA, headers=key)
    other = await client.post("/users", json=ADA | {"name": "Ada King"}, headers=key)

    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["Idempotent-Replayed"] == "true"
    assert other.status_code == 422
    assert len((await client.get("/users")).json()["items"]) == 1
