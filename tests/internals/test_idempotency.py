"""A repeated write with the same `Idempotency-Key` has one effect, and the same answer."""

import asyncio
import os
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import asyncpg
import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.routing import APIRoute
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import func, insert, select, update

from app.core.database import (
    Database,
    ReadSession,
    ReadSessionDep,
    WriteSession,
    WriteSessionDep,
    database,
)
from app.core.http.idempotency import IdempotentSessionDep, KeyedSessionDep
from app.core.http.idempotency.attempt import OnlySession
from app.core.http.idempotency.table import MAX_DELETED, answer
from app.core.http.problems import Unavailable
from dev.processes import free_port
from tests.core.budget import QueryBudget
from tests.core.plugin import migrated_database
from tests.core.serving import ROOT, program
from tests.internals import idempotent
from tests.internals.idempotent import make_app
from tests.internals.tables import Book, tables

KEY = {"Idempotency-Key": "k-1"}
TIMEOUT_S = 40
FUZZ = tomllib.loads((ROOT / "schemathesis.toml").read_text())
FUZZ_EXCEPTIONS = [each.get("include-by") for each in FUZZ["operations"]]


@pytest.fixture(autouse=True)
async def _tables(app: FastAPI, database: None) -> AsyncIterator[None]:
    idempotent.committed.clear()
    idempotent.is_waiting.clear()
    idempotent.going_on.clear()
    async with tables():
        yield


def client_of(app: FastAPI, address: str = "192.0.2.1") -> AsyncClient:
    transport = ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
    return AsyncClient(transport=transport, base_url="http://test", headers=KEY)


# Not async: an application reads files when it is built.
@pytest.fixture(params=[True, False], ids=["compiled", "stock"])
def books(request: pytest.FixtureRequest) -> FastAPI:
    return make_app(compiled_handlers=request.param)


@pytest.fixture
def short_lived() -> FastAPI:
    return make_app(idempotency_lifetime_s=60)


@pytest.fixture
async def client(books: FastAPI) -> AsyncIterator[AsyncClient]:
    async with client_of(books) as client:
        yield client


async def titles() -> list[str]:
    return sorted(await ReadSession().scalars(select(Book.title)))


async def answers() -> int:
    return await ReadSession().scalar(select(func.count()).select_from(answer)) or 0


async def held(connections: int) -> None:
    """Wait until so many connections are in use: a relay of jobs takes one for a moment."""
    async with asyncio.timeout(TIMEOUT_S):
        while database.gate.in_use != connections:
            await asyncio.sleep(0.01)


def without_request(response: httpx2.Response) -> dict[str, str]:
    """Return the headers but those of one request."""
    own = ("x-request-id", "idempotent-replayed", "set-cookie", "commit-lsn")
    return {name: value for name, value in response.headers.items() if name not in own}


@pytest.mark.parametrize("path", ["/entities", "/rows/7?a=b", "/single", "/texts"])
async def test_a_repetition_gets_the_same_answer(client: AsyncClient, path: str) -> None:
    body: dict[str, Any] = {"json": {"title": "x"}}
    if path == "/texts":
        body = {"content": b"x", "headers": {"Content-Type": "text/plain"}}

    first, *repeated = [await client.post(path, **body) for _ in range(3)]

    assert first.is_success
    assert "idempotent-replayed" not in first.headers
    for response in repeated:
        assert response.status_code == first.status_code
        assert response.content == first.content
        assert without_request(response) == without_request(first)
        assert response.headers["Idempotent-Replayed"] == "true"
        assert "set-cookie" not in response.headers
    assert len(await titles()) == 1
    assert len(idempotent.committed) <= 1
    assert await answers() == 1


async def test_a_form_may_be_repeated(client: AsyncClient) -> None:
    found = [await client.post("/form", content=each) for each in (b"a", b"a", b"b")]

    assert [response.status_code for response in found] == [200, 200, 422]
    assert found[1].headers["Idempotent-Replayed"] == "true"
    assert await titles() == ["a"]


async def test_without_a_key_nothing_is_stored(client: AsyncClient) -> None:
    del client.headers["Idempotency-Key"]
    for _ in range(2):
        assert (await client.post("/rows/7", json={"title": "x"})).status_code == 202

    assert await titles() == ["x", "x"]
    assert idempotent.committed == ["x", "x"]
    assert await answers() == 0


async def test_a_key_belongs_to_one_request_of_one_caller(client: AsyncClient) -> None:
    assert (await client.post("/rows/7", json={"title": "x"})).is_success

    for path, title in (("/rows/7", "y"), ("/rows/8", "x"), ("/rows/7?a=b", "x")):
        response = await client.post(path, json={"title": title})
        assert response.status_code == 422
        assert "other contents" in response.json()["detail"]
    assert (await client.post("/single", json={"title": "other route"})).is_success
    async with client_of(idempotent.app, "192.0.2.2") as other:
        response = await other.post("/rows/7", json={"title": "other caller"})
        assert response.is_success
        assert "idempotent-replayed" not in response.headers
    assert await titles() == ["other caller", "other route", "x"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [("raised", 418), ("returned", 400), ("unexpected", 500), ("invalid", 500), ("commit", 409)],
)
async def test_a_failed_request_leaves_nothing(client: AsyncClient, kind: str, status: int) -> None:
    for _ in range(2):
        response = await client.post(f"/failing/{kind}", json={"title": "x"})
        assert response.status_code == status
        assert "idempotent-replayed" not in response.headers
        assert response.content == b"" or response.json()["status"] == status

    assert await titles() == []
    assert idempotent.committed == []
    assert await answers() == 0
    await held(0)


async def test_the_caller_is_authenticated_before_the_key_is_looked_up(
    client: AsyncClient,
) -> None:
    users = ("ada", "bob", "ada")
    answers = [
        await client.post("/owned", json={"title": user}, headers={"X-User": user})
        for user in users
    ]

    assert [each.json()["title"] for each in answers] == ["ada", "bob", "ada"]
    assert ["idempotent-replayed" in each.headers for each in answers] == [False, False, True]
    assert await titles() == ["ada", "bob"]


async def test_a_caller_who_is_authenticated_too_late_fails(client: AsyncClient) -> None:
    response = await client.post("/late", json={"title": "x"}, headers={"X-User": "ada"})

    assert response.status_code == 500
    assert await titles() == []
    assert await answers() == 0


@pytest.mark.parametrize("way", ["plain", "after", "nested"])
@pytest.mark.parametrize("with_key", [True, False])
async def test_another_session_fails_with_and_without_a_key(
    client: AsyncClient, way: str, with_key: bool
) -> None:
    if not with_key:
        del client.headers["Idempotency-Key"]
    response = await client.post(f"/reading/{way}", json={"title": "x"})

    assert response.status_code == 500
    # Without a key, `autocommit` has written before the read.
    assert await titles() == (["x"] if way == "after" and not with_key else [])
    await held(0)
    assert (await client.post("/reading/session", json={"title": "y"})).is_success


async def test_a_route_with_a_second_session_stops_the_start() -> None:
    async def first(session: IdempotentSessionDep, reads: ReadSessionDep) -> None: ...

    async def second(session: IdempotentSessionDep, writes: WriteSessionDep) -> None: ...

    async def pair(session: KeyedSessionDep, reads: ReadSessionDep) -> None: ...

    async def third(found: Annotated[None, Depends(pair)]) -> None: ...

    for endpoint in (first, second, third):
        router = APIRouter()
        router.add_api_route("/books", endpoint, methods=["POST"])
        with pytest.raises(TypeError, match=r"POST /books: .* read through the idempotent session"):
            await asyncio.to_thread(make_app, router)


async def test_a_dependency_may_read_before_the_session() -> None:
    async def count(reads: ReadSessionDep) -> int:
        return len(await reads.scalars(select(Book.title)))

    async def create(session: IdempotentSessionDep, books: Annotated[int, Depends(count)]) -> int:
        await session.execute(insert(Book).values(title="x"))
        return books

    router = APIRouter()
    router.add_api_route("/books", create, methods=["POST"])
    async with client_of(await asyncio.to_thread(make_app, router)) as client:
        for _ in range(2):
            response = await client.post("/books")
            assert (response.status_code, response.json()) == (200, 0)


async def test_an_invalid_body_leaves_nothing(client: AsyncClient) -> None:
    assert (await client.post("/single", json={})).status_code == 422
    assert (await client.post("/single", json={"title": "x"})).is_success
    assert await titles() == ["x"]


@pytest.mark.parametrize("is_stored", [True, False])
async def test_a_repetition_after_a_lost_reply_to_the_commit(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch, is_stored: bool
) -> None:
    monkeypatch.setattr("app.core.database.sessions.SETTLE_TIMEOUT_S", 0.01)
    command = Database.command

    async def lost(self: Database, connection: Any, sql: str) -> str:
        if sql != "COMMIT" or is_stored:
            await command(self, connection, sql)
        if sql == "COMMIT":
            raise Unavailable("lost")
        return sql

    with monkeypatch.context() as patch:
        patch.setattr(Database, "command", lost)
        assert (await client.post("/single", json={"title": "x"})).status_code == 503
    response = await client.post("/single", json={"title": "x"})

    assert response.json() == {"title": "x"}
    assert ("idempotent-replayed" in response.headers) is is_stored
    assert await titles() == ["x"]


async def test_a_refused_autocommit_does_not_release_the_slot_of_the_transaction() -> None:
    before = database.gate.in_use
    async with OnlySession() as session:
        await session.fetch(idempotent.TITLES)
        with pytest.raises(RuntimeError, match="use `write`"):
            await session.autocommit(idempotent.ADD, title="x", shelf_id=None)
        assert database.gate.in_use == before + 1
    assert database.gate.in_use == before


async def test_a_concurrent_request_is_refused_and_holds_no_connection(
    client: AsyncClient,
) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        first = asyncio.create_task(client.post("/waiting", json={"title": "x"}))
        await idempotent.is_waiting.wait()
        responses = [await client.post("/waiting", json={"title": "x"}) for _ in range(3)]
        await held(1)
        idempotent.going_on.set()
        done = await first

    for response in responses:
        assert response.status_code == 409
        assert response.headers["Retry-After"] == "1"
    again = await client.post("/waiting", json={"title": "x"})
    assert (again.content, again.headers["Idempotent-Replayed"]) == (done.content, "true")
    assert await titles() == ["x"]


async def test_an_answer_that_comes_first_rolls_back_the_other(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other request may have looked before the commit, and locked the key after it."""
    assert (await client.post("/single", json={"title": "x"})).is_success
    row = {"is_locked": True, "fingerprint": None}

    async def nothing(*_: Any, **_values: Any) -> list[dict[str, Any]]:
        return [row]

    with monkeypatch.context() as patch:
        patch.setattr("app.core.http.idempotency.attempt.IdempotentSession.fetch", nothing)
        response = await client.post("/single", json={"title": "x"})

    assert response.status_code == 409
    assert response.headers["Retry-After"] == "1"
    assert await titles() == ["x"]


async def test_an_expired_answer_is_forgotten(client: AsyncClient) -> None:
    assert (await client.post("/single", json={"title": "x"})).is_success
    async with WriteSession() as session:
        await session.execute(update(answer).values(expires_at=func.now()))

    response = await client.post("/single", json={"title": "y"})

    assert response.json() == {"title": "y"}
    assert await titles() == ["x", "y"]
    assert await answers() == 1
    again = await client.post("/single", json={"title": "y"})
    assert again.headers["Idempotent-Replayed"] == "true"


async def test_each_request_deletes_some_expired_answers(client: AsyncClient) -> None:
    past = datetime.now(UTC) - timedelta(hours=1)
    row = {"fingerprint": b"", "status": 200, "headers": [], "expires_at": past}
    async with WriteSession() as session:
        rows = [{"id": bytes([number]), **row} for number in range(MAX_DELETED + 5)]
        await session.execute(insert(answer).values(rows))

    assert (await client.post("/single", json={"title": "x"})).is_success
    assert await answers() == 5 + 1


async def test_answers_expire_after_the_setting(short_lived: FastAPI) -> None:
    async with client_of(short_lived) as client:
        assert (await client.post("/single", json={"title": "x"})).is_success

    left = await ReadSession().scalar(select(answer.c.expires_at - func.now()))
    assert left is not None
    assert timedelta(0) < left <= timedelta(seconds=60)


@pytest.mark.parametrize("path", ["/large", "/streamed"])
async def test_an_answer_that_is_not_stored_is_not_repeated(client: AsyncClient, path: str) -> None:
    first = await client.post(path, json={"title": "x"})
    again = await client.post(path, json={"title": "x"})

    assert first.status_code == 200
    assert first.text in ("ab", f'"{first.text[1:-1]}"')
    assert again.status_code == 409
    assert "its answer was not stored" in again.json()["detail"]
    assert await titles() == ["x"]


@pytest.mark.parametrize("key", ["", '""', " ", "a b", "k" * 256, "é", 'a"b', "a\\b", "a,b\tc"])
async def test_another_syntax_is_refused(client: AsyncClient, key: str) -> None:
    given = [(b"Idempotency-Key", key.encode("latin-1"))]
    response = await client.post("/single", json={"title": "x"}, headers=given)
    assert response.status_code == 400
    assert "Idempotency-Key" in response.json()["detail"]
    assert await titles() == []


async def test_several_keys_are_refused(client: AsyncClient) -> None:
    del client.headers["Idempotency-Key"]
    keys = [("Idempotency-Key", "a"), ("Idempotency-Key", "b")]
    response = await client.post("/rows/1", json={"title": "x"}, headers=keys)

    assert response.status_code == 400
    assert await titles() == []


async def test_quotes_do_not_belong_to_the_key(client: AsyncClient) -> None:
    for key in ("k-1", '"k-1"'):
        given = {"Idempotency-Key": key}
        response = await client.post("/single", json={"title": "x"}, headers=given)
        assert response.is_success
    assert await titles() == ["x"]


async def test_a_route_may_require_the_key(client: AsyncClient) -> None:
    del client.headers["Idempotency-Key"]
    response = await client.post("/texts", content=b"x", headers={"Content-Type": "text/plain"})
    assert response.status_code == 400
    assert "required" in response.json()["detail"]


async def test_other_routes_ignore_the_key(client: AsyncClient) -> None:
    assert (await client.get("/livez")).status_code == 200


async def test_openapi_has_the_header_and_its_errors() -> None:
    paths = idempotent.app.openapi()["paths"]
    for path, is_required in (("/single", False), ("/texts", True), ("/rows/{number}", False)):
        operation = paths[path]["post"]
        (header,) = [each for each in operation["parameters"] if each["in"] == "header"]
        assert (header["name"], header["required"]) == ("Idempotency-Key", is_required)
        assert {"409", "422", "4XX"} <= operation["responses"].keys()
        # By this, `nox -s fuzz` finds the routes.
        description = operation["responses"]["422"]["description"]
        assert f'/responses/422/description == "{description}"' in FUZZ_EXCEPTIONS
    assert "text/plain" in operation["requestBody"]["content"] or path != "/texts"
    assert "parameters" not in paths["/livez"]["get"]


async def test_a_key_costs_two_statements_and_a_repetition_one(
    client: AsyncClient, queries: QueryBudget
) -> None:
    with queries.exactly(3):
        await client.post("/rows/1", json={"title": "x"})
    with queries.exactly(1):
        await client.post("/rows/1", json={"title": "x"})
    del client.headers["Idempotency-Key"]
    with queries.exactly(1):
        await client.post("/rows/1", json={"title": "x"})


async def test_the_handlers_are_compiled() -> None:
    routes = [each for each in idempotent.app.routes if isinstance(each, APIRoute)]
    assert [each.path for each in routes if not hasattr(each.app, "direct")] == []


@pytest.fixture
def migrated() -> Iterator[str]:
    with migrated_database() as url:
        yield url


async def test_a_service_that_lacks_the_table_gets_it(migrated: str) -> None:
    """As after an update that turns the answer on; docs/configuration.md removes it like this."""
    connection = await asyncpg.connect(migrated)
    await connection.execute(
        "DROP TABLE idempotent_answer;"
        "DELETE FROM alembic_version_core WHERE version_num = 'core_idempotency'"
    )
    await connection.close()
    reports = [await migrate(migrated) for _ in range(2)]

    assert reports == ["Applied: core_idempotency.\n", "The database is up to date.\n"]


async def migrate(url: str) -> str:
    """Return the report of `python -m app migrate`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "app", "migrate"),
        env=os.environ | {"DATABASE_URL": url},
        stdout=asyncio.subprocess.PIPE,
    )
    report, _ = await process.communicate()
    return report.decode()


@pytest.fixture
def remote() -> Iterator[AsyncClient]:
    """Serve the application with two workers; yields a client, which is not open yet."""
    port = free_port()
    config = ("--config", "deploy/gunicorn.conf.py")
    variables = {"PORT": str(port), "ADMIN_PORT": "0", "WEB_CONCURRENCY": "2"}
    # On a loaded machine, 25 requests wait longer for the ten connections of a worker.
    variables["DATABASE_POOL_TIMEOUT_S"] = str(TIMEOUT_S)
    with program(
        "gunicorn",
        *config,
        "tests.internals.idempotent:app",
        is_ready=lambda log: log.count("Application startup complete") == 2,
        **variables,
    ):
        yield AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=KEY, timeout=TIMEOUT_S)


@pytest.mark.timeout(120)
async def test_fifty_concurrent_requests_have_one_effect(remote: AsyncClient) -> None:
    async with remote as client:
        posts = [client.post("/single", json={"title": "x"}) for _ in range(50)]
        responses = await asyncio.gather(*posts)
        again = await client.post("/single", json={"title": "x"})

    # A limit on requests answers 503.
    assert {each.status_code for each in responses} <= {200, 409, 503}
    succeeded = [each for each in [*responses, again] if each.is_success]
    replayed = [each for each in succeeded if "idempotent-replayed" in each.headers]
    assert len(replayed) == len(succeeded) - 1
    assert {each.content for each in succeeded} == {again.content}
    assert await titles() == ["x"]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_worker_that_is_killed_before_the_answer(
    remote: AsyncClient, tmp_path: Path, when: str
) -> None:
    path = f"/dying/{when}?path={tmp_path / 'killed'}"
    async with asyncio.timeout(TIMEOUT_S), remote as client:
        with pytest.raises(httpx2.TransportError):
            await client.post(path, json={"title": "x"})
        response = None
        # The transaction of the killed worker ends when PostgreSQL sees its connection close.
        while response is None or response.status_code == 409:
            try:
                response = await client.post(path, json={"title": "x"})
            except httpx2.TransportError:
                await asyncio.sleep(0.05)

    assert response.json() == {"title": "x"}
    assert ("idempotent-replayed" in response.headers) is (when == "after")
    assert await titles() == ["x"]
