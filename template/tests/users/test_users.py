"""Users: registered once, welcomed once, read, listed and changed."""

from uuid import UUID, uuid4

import pytest
from httpx2 import AsyncClient
from sqlalchemy import select

from app.core.database import ReadSession
from app.users.jobs import send_welcome
from app.users.models import User
from tests.core.budget import QueryBudget
from tests.core.jobs import Jobs

ADA = {"email": "ada@example.com", "name": "Ada Lovelace"}


async def register(client: AsyncClient, **changes: str) -> str:
    response = await client.post("/users", json=ADA | changes)
    assert response.status_code == 201
    identifier: str = response.json()["id"]
    return identifier


async def test_register_and_read(client: AsyncClient) -> None:
    response = await client.post("/users", json={"email": "Ada@Example.COM", "name": "Ada"})

    assert response.status_code == 201
    user = response.json()
    assert (user["email"], user["name"]) == ("ada@example.com", "Ada")
    read = (await client.get(f"/users/{user['id']}")).json()
    assert read | {"email": "ada@example.com"} == user


async def test_an_address_is_shown_to_nobody_else(client: AsyncClient) -> None:
    path = f"/users/{await register(client)}"

    for response in (
        await client.get(path),
        await client.get("/users"),
        await client.patch(path, json={"name": "Ada King"}),
    ):
        assert response.status_code == 200
        assert "Ada" in response.text
        assert "@" not in response.text


async def test_a_registered_user_is_welcomed(client: AsyncClient, running_jobs: Jobs) -> None:
    await register(client)

    await running_jobs.done()

    assert await ReadSession().scalar(select(User.welcomed_at)) is not None


async def test_a_job_that_runs_again_welcomes_nobody(
    client: AsyncClient, running_jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    identifier = UUID(await register(client))
    await running_jobs.done()
    caplog.clear()

    await send_welcome(identifier)

    assert "Welcome" not in caplog.text


async def test_an_address_is_taken_only_once(client: AsyncClient) -> None:
    await register(client)
    other = await register(client, email="grace@example.com")

    for response in (
        await client.post("/users", json=ADA | {"email": "ADA@example.com"}),
        await client.patch(f"/users/{other}", json={"email": "ada@example.com"}),
    ):
        assert response.status_code == 409
        assert response.json()["detail"] == "The e-mail address ada@example.com is taken."


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"email": "ada"}, "body.email"),
        ({"name": " "}, "body.name"),
        ({"role": "admin"}, "body.role"),
    ],
)
async def test_invalid_data_is_refused_by_name(
    client: AsyncClient, data: dict[str, object], field: str
) -> None:
    response = await client.post("/users", json=ADA | data)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_an_unknown_user(client: AsyncClient) -> None:
    for response in (
        await client.get(f"/users/{uuid4()}"),
        await client.patch(f"/users/{uuid4()}", json={"name": "Nobody"}),
        await client.patch(f"/users/{uuid4()}", json={}),
    ):
        assert response.status_code == 404
    assert (await client.get("/users/ada")).status_code == 422


async def test_a_change_keeps_absent_fields_and_null_clears_one(client: AsyncClient) -> None:
    path = f"/users/{await register(client, bio='Wrote the first program.')}"
    before = (await client.get(path)).json()

    for changes in ({"name": "Ada King"}, {"bio": None}):
        response = await client.patch(path, json=changes)

        assert response.status_code == 200
        assert response.json() == before | changes
        before = (await client.get(path)).json()
        assert before == response.json()


async def test_the_list_has_the_newest_first(client: AsyncClient) -> None:
    for number in range(5):
        await register(client, email=f"{number}@example.com", name=f"{number}")

    first = await client.get("/users?limit=3")
    rest = await client.get(f"/users{first.links['next']['url']}")

    names = [user["name"] for page in (first, rest) for user in page.json()["items"]]
    assert names == ["4", "3", "2", "1", "0"]


async def test_each_request_keeps_its_budget(client: AsyncClient, queries: QueryBudget) -> None:
    with queries.at_most(2):
        identifier = await register(client)
    for number in range(3):
        await register(client, email=f"{number}@example.com")

    with queries.at_most(1):
        await client.get(f"/users/{identifier}")
    with queries.exactly(1):
        await client.patch(f"/users/{identifier}", json={"name": "Ada King"})
    with queries.at_most(1):
        assert len((await client.get("/users")).json()["items"]) == 4
