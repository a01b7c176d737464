"""Orders are created, read and listed; a protected route asks for a token."""

from httpx2 import AsyncClient

from tests.core.budget import QueryBudget


async def test_create_read_and_list(client: AsyncClient, queries: QueryBudget) -> None:
    order = (await client.post("/orders", json={"item": "tea"})).raise_for_status().json()

    with queries.exactly(1):
        assert (await client.get(f"/orders/{order['id']}")).json() == order
    assert (await client.get("/orders")).json()["items"] == [order]


async def test_a_protected_route_asks_for_a_token(client: AsyncClient) -> None:
    assert (await client.get("/orders/protected/1")).status_code in (401, 403)
