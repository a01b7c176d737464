"""Posts: published, read, listed with their authors and changed."""

from uuid import uuid4

import pytest
from httpx2 import AsyncClient

from tests.core.budget import QueryBudget
from tests.core.plans import plan

POST = {"title": "Notes", "body": "On the Analytical Engine."}


@pytest.fixture
async def author(client: AsyncClient) -> dict[str, str]:
    response = await client.post("/users", json={"email": "ada@example.com", "name": "Ada"})
    user = response.json()
    return {"id": user["id"], "name": user["name"]}


async def test_publish_and_read(client: AsyncClient, author: dict[str, str]) -> None:
    tags = {"author_id": author["id"], "tags": ["Machines", "algebra", "machines"]}
    response = await client.post("/posts", json=POST | tags)

    assert response.status_code == 201
    post = response.json()
    assert (post["title"], post["body"], post["author"]) == (POST["title"], POST["body"], author)
    assert post["tags"] == ["algebra", "machines"]
    assert (await client.get(f"/posts/{post['id']}")).json() == post


async def test_an_author_must_exist(client: AsyncClient) -> None:
    response = await client.post("/posts", json=POST | {"author_id": str(uuid4())})

    assert response.status_code == 409
    assert "to be the author" in response.json()["detail"]


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"author_id": "ada"}, "body.author_id"),
        ({"body": "x" * 10_001}, "body.body"),
        ({"likes": 3}, "body.likes"),
        ({"tags": ["no blanks"]}, "body.tags.0"),
    ],
)
async def test_invalid_data_is_refused_by_name(
    client: AsyncClient, author: dict[str, str], data: dict[str, object], field: str
) -> None:
    response = await client.post("/posts", json=POST | {"author_id": author["id"]} | data)

    assert response.status_code == 422
    assert [error["field"] for error in response.json()["errors"]] == [field]


async def test_list_with_authors(client: AsyncClient, author: dict[str, str]) -> None:
    other = (await client.post("/users", json={"email": "g@example.com", "name": "Grace"})).json()
    for number, identifier in enumerate([author["id"], other["id"], author["id"]]):
        post = POST | {"author_id": identifier, "title": str(number)}
        assert (await client.post("/posts", json=post)).status_code == 201

    posts = (await client.get("/posts")).json()["items"]
    own = (await client.get("/posts", params={"author_id": author["id"]})).json()["items"]

    assert [(post["title"], post["author"]["name"]) for post in posts] == [
        ("2", "Ada"),
        ("1", "Grace"),
        ("0", "Ada"),
    ]
    assert own == [posts[0], posts[2]]


async def test_change(client: AsyncClient, author: dict[str, str]) -> None:
    post = (await client.post("/posts", json=POST | {"author_id": author["id"]})).json()

    response = await client.patch(f"/posts/{post['id']}", json={"title": "Notes, revised"})

    assert response.status_code == 200
    assert response.json() == post | {"title": "Notes, revised"}
    for data in ({"title": None}, {"body": ""}, {"likes": 3}):
        assert (await client.patch(f"/posts/{post['id']}", json=data)).status_code == 422
    assert (await client.patch(f"/posts/{post['id']}", json={})).json() == response.json()
    assert (await client.get(f"/posts/{post['id']}")).json() == response.json()


async def test_an_unknown_post(client: AsyncClient) -> None:
    assert (await client.get(f"/posts/{uuid4()}")).status_code == 404
    for data in ({"title": "x"}, {}):
        assert (await client.patch(f"/posts/{uuid4()}", json=data)).status_code == 404


async def test_each_request_keeps_its_budget(
    client: AsyncClient, author: dict[str, str], queries: QueryBudget
) -> None:
    data = POST | {"author_id": author["id"], "tags": ["a", "b"]}
    # The post, its tags, and the statement of `GET`.
    with queries.at_most(3):
        post = (await client.post("/posts", json=data)).json()
    for _ in range(4):
        await client.post("/posts", json=data)

    with queries.at_most(1):
        await client.get(f"/posts/{post['id']}")
    with queries.at_most(1):
        await client.patch(f"/posts/{post['id']}", json={"title": "Notes, revised"})
    for params in ({}, {"author_id": author["id"]}):
        with queries.at_most(1, rows=5):
            response = await client.get("/posts", params=params)
        assert len(response.json()["items"]) == 5


async def test_each_list_is_read_from_its_index(
    client: AsyncClient, author: dict[str, str], queries: QueryBudget
) -> None:
    for _ in range(4):
        await client.post("/posts", json=POST | {"author_id": author["id"]})

    of_author = f"author_id={author['id']}&"
    for filters, index in (("", "created_at_id"), (of_author, "author_id_created_at_id")):
        with queries.exactly(2) as sent:
            first = await client.get(f"/posts?{filters}limit=2")
            await client.get(f"/posts{first.links['next']['url']}")
        for sql in sent.statements:
            found = await plan(sql)
            assert f"Index Scan Backward using ix_posts_{index}" in found
            assert "Sort" not in found
