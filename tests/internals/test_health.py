"""Liveness, readiness, and a database that cannot be reached."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
from fastapi import FastAPI
from httpx2 import AsyncClient
from pydantic import SecretStr
from sqlalchemy import func, make_url, select

from app.core.database import Database, ReadSession, database, revisions
from app.core.database.revisions import Revisions, missing_heads, read_revisions
from app.core.http.problems import Busy
from app.core.operations import health
from app.settings import get_settings
from dev.processes import free_port
from tests.core.serving import serving


async def checks(status: int = 200) -> dict[str, str]:
    """Return the state of each dependency, as the admin port shows it."""
    response = await health.ready_details()
    assert response.status_code == status
    found: dict[str, str] = orjson.loads(response.body)["checks"]
    return found


async def test_live(client: AsyncClient) -> None:
    response = await client.get("/livez")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})


async def test_ready(client: AsyncClient) -> None:
    response = await client.get("/readyz")

    assert (response.status_code, response.json()) == (200, {"status": "ok"})
    assert set((await checks()).values()) == {"ok"}


async def test_a_service_that_is_busy_is_not_taken_away(client: AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(Busy):
            while True:
                await stack.enter_async_context(database.gate)

        response = await client.get("/readyz")
        found = await checks()

    assert (response.status_code, response.json()) == (200, {"status": "degraded"})
    assert found["database"] == "all connections in use"


async def test_a_database_that_hangs_is_said_in_time(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(*_: object) -> None:
        await ReadSession().scalar(select(func.pg_sleep(60)))

    monkeypatch.setattr(revisions, "missing_heads", hang)
    async with asyncio.timeout(30):
        found = await checks(503)

    assert found["database"] == "no answer within 1 s"


def test_heads_are_the_revisions_that_none_follows(tmp_path: Path) -> None:
    assert read_revisions(tmp_path) == Revisions(frozenset(), frozenset())
    for name, source in {
        "1": 'revision = "1"\ndown_revision = None',
        "2": 'revision: str = "2"\ndown_revision: str | None = "1"',
        "3": 'revision = "3"\ndown_revision = (\n    "1",\n)',
        "4": 'revision = "4"\ndown_revision = "3"\ndepends_on = "2"',
        "5": 'revision = "5"\ndown_revision = "1"',
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    assert read_revisions(tmp_path).heads == {"4", "5"}

    (tmp_path / "6.py").write_text('revision = "6"\ndepends_on = "core@head"')
    _, *rest = read_revisions(tmp_path)
    assert rest == [set(), "unknown: no revision core@head"]


@pytest.mark.parametrize(
    "source",
    [
        "revision = name()",
        "revision = '1'\ndown_revision = FIRST",
        "revision, other = '1', '2'",
        "x = = 1",
        "${x}",
        "\0",
    ],
)
async def test_a_migration_that_only_alembic_can_read_is_said(
    source: str, tmp_path: Path, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread((tmp_path / "odd.py").write_text, source)
    monkeypatch.setattr(revisions, "of_this_release", lambda: read_revisions(tmp_path))

    response = await client.get("/readyz")

    assert (response.status_code, response.json()) == (200, {"status": "degraded"})
    assert (await checks())["migrations"] == "unknown: cannot read odd.py"


@pytest.mark.parametrize(
    ("applied", "missing"),
    [
        ({"core_0001", "core_answer", "a"}, set()),
        ({"core_removed", "a"}, {"core_0001", "core_answer"}),
        ({"core_0002", "core_answer_2", "newer"}, set()),
        ({"core_0002", "newer"}, {"core_answer"}),
        (set(), {"core_0001", "core_answer", "a"}),
    ],
)
def test_only_a_line_in_which_the_database_is_newer_is_not_compared(
    applied: set[str], missing: set[str]
) -> None:
    every = frozenset({"core_0001", "core_answer", "a"})

    assert Revisions(every, every).missing(applied) == missing


async def test_a_database_without_the_migrations_of_this_release_is_not_ready(
    app: FastAPI, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await missing_heads(database, Revisions(frozenset(), frozenset())) == set()
    # It may be of a newer release.
    here = await asyncio.to_thread(revisions.of_this_release)
    older = frozenset({"core_0000"})
    assert await missing_heads(database, Revisions(older, older)) == set()
    newer = Revisions(here.known | {"new"}, frozenset({"new"}))
    monkeypatch.setattr(revisions, "of_this_release", lambda: newer)
    assert (await client.get("/readyz")).status_code == 503
    assert (await checks(503))["database"] == "migrations are missing, up to new"

    url = make_url(get_settings().database_url.get_secret_value()).set(database="template1")
    secret = SecretStr(url.render_as_string(hide_password=False))
    empty = Database()
    empty.open(get_settings().model_copy(update={"database_url": secret}), pool_size=1)
    assert await missing_heads(empty, newer) == {"new"}
    await empty.close()


def test_without_a_database_the_process_lives_and_is_not_ready() -> None:
    nowhere = f"postgresql://nobody:secret@127.0.0.1:{free_port()}/nothing"
    with serving(DATABASE_URL=nowhere) as client:
        assert client.get("/livez").status_code == 200

        response = client.get("/readyz")

        assert response.status_code == 503
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"] == "Not ready."
        assert "checks" not in response.json()
        assert client.get("/livez").status_code == 200
