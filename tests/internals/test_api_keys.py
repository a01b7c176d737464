"""API keys: made once, found by their hash, refused when they expire or are revoked."""

import json
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from httpx2 import AsyncClient
from sqlalchemy import text

from app.core import security
from app.core.database import database as engine
from app.core.security import authentication
from app.core.security.api_keys import KNOWN_S, new_key
from app.core.security.commands import execute
from app.settings import get_settings
from tests.core.budget import QueryBudget
from tests.internals.commands import run
from tests.internals.guarded import app_of, client_of

router = APIRouter()


@router.get("/things", dependencies=[security.requires("things:read")])
async def things(caller: security.Caller) -> str:
    return caller.subject


class Clock:
    """The time of credentials, which a test moves."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        # Imported there, and not exported.
        self._time = authentication.time  # type: ignore[attr-defined]

    def __call__(self) -> float:
        return float(self._time() + self.passed_s)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(authentication, "time", clock)
    return clock


@pytest.fixture
def app_of_things() -> FastAPI:
    return app_of(router)


@pytest.fixture
async def client(app_of_things: FastAPI, database: None) -> AsyncIterator[AsyncClient]:
    async with client_of(app_of_things, get_settings()) as client:
        yield client


Keys = Callable[..., Awaitable[str]]


@pytest.fixture
def keys(database: None, capsys: pytest.CaptureFixture[str]) -> Keys:
    """Run an action of `python -m app keys`, and return its output."""

    async def run_keys(action: str, *ids: str, **options: Any) -> str:
        await execute(get_settings(), action, ids, **options)
        return capsys.readouterr().out.strip()

    return run_keys


@pytest.fixture
async def key(keys: Keys) -> str:
    return await keys("create", subject="robot", scopes=["things:read", "things:write"])


async def status(client: AsyncClient, key: str) -> int:
    response = await client.get("/things", headers={"Authorization": f"Bearer {key}"})
    assert key not in response.text
    return response.status_code


async def test_a_key_is_accepted(
    key: str, client: AsyncClient, queries: QueryBudget, caplog: pytest.LogCaptureFixture
) -> None:
    """One statement finds it, and the next requests need none."""
    caplog.set_level(logging.DEBUG)
    with queries.at_most(1):
        for _ in range(3):
            response = await client.get("/things", headers={"Authorization": f"Bearer {key}"})
            assert (response.status_code, response.json()) == (200, "robot")
    assert key not in caplog.text


async def test_only_the_hash_is_stored(key: str, client: AsyncClient) -> None:
    async with engine.engine.connect() as connection:
        row = (await connection.execute(text("SELECT api_key::text FROM api_key"))).scalar_one()

    assert key not in row
    assert key.removeprefix("sk_") not in row


async def test_wrong_keys_are_refused(
    key: str, client: AsyncClient, queries: QueryBudget, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert await status(client, new_key()) == 401
    with queries.at_most(0):
        for wrong in (
            key[:-1],
            key + "0",
            key.upper(),
            key.removeprefix("sk_"),
            "sk_",
            "sk_" + "0" * 63 + "g",
            "sk_" + "' OR true --".ljust(64),
            key + "\0",
        ):
            assert await status(client, wrong) == 401
    assert key not in caplog.text


async def test_a_scope_is_required(keys: Keys, client: AsyncClient) -> None:
    for scopes in ([], ["things"]):
        made = await keys("create", subject="robot", scopes=scopes)
        assert await status(client, made) == 403


async def test_a_key_expires(key: str, keys: Keys, client: AsyncClient, clock: Clock) -> None:
    brief = await keys("create", subject="robot", scopes=["things:read"], expires_days=1)
    clock.passed_s = 24 * 3600 - 60
    assert await status(client, brief) == 200
    clock.passed_s = 24 * 3600 + 60
    assert await status(client, brief) == 401
    assert await status(client, key) == 200
    clock.passed_s = 90 * 24 * 3600 + 60
    assert await status(client, key) == 401


async def test_a_key_that_is_remembered_expires(
    key: str, client: AsyncClient, clock: Clock
) -> None:
    async with engine.engine.begin() as connection:
        await connection.execute(text("UPDATE api_key SET expires_at = now() + interval '1 hour'"))
    clock.passed_s = 3600 - KNOWN_S / 2
    assert await status(client, key) == 200
    clock.passed_s += KNOWN_S / 2 + 1
    assert await status(client, key) == 401


async def test_a_key_is_revoked(key: str, keys: Keys, client: AsyncClient, clock: Clock) -> None:
    assert await status(client, key) == 200
    (listed,) = json.loads(await keys("list", as_json=True))
    assert (listed["subject"], listed["scopes"]) == ("robot", ["things:read", "things:write"])
    assert "hash" not in listed

    id = str(listed["id"])
    assert await keys("revoke", id) == f"Key {id} of robot is refused, after 5 s at most."
    clock.passed_s = KNOWN_S + 1
    assert await status(client, key) == 401
    with pytest.raises(SystemExit, match=f"no key {id} is valid"):
        await keys("revoke", id)


async def test_keys_are_unavailable_without_the_database(
    key: str, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await status(client, key) == 200
    monkeypatch.setattr(engine.gate, "_timeout_s", 0.01)
    for _ in range(engine.gate.size):
        await engine.gate.acquire()
    try:
        assert await status(client, key) == 200
        assert await status(client, new_key()) == 503
    finally:
        for _ in range(engine.gate.size):
            engine.gate.release()


@pytest.mark.parametrize(
    ("arguments", "options", "reason"),
    [
        (("create",), {}, "use `create --subject NAME"),
        (("create",), {"subject": "robot", "scopes": ["a b"]}, "'a b' is no scope"),
        (("create",), {"subject": "robot", "scopes": ['"']}, "is no scope"),
        (("create",), {"subject": "robot", "scopes": [""]}, "is no scope"),
        (("revoke", "999999"), {}, "no key 999999 is valid"),
        (("revoke", "9" * 20), {}, "use `create"),
        (("revoke", "one"), {}, "use `create"),
        (("revoke",), {}, "use `create"),
        (("list", "all"), {}, "use `create"),
        (("forget",), {}, "use `create"),
    ],
)
async def test_wrong_commands_are_explained(
    keys: Keys, arguments: tuple[str, ...], options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SystemExit, match=reason):
        await keys(*arguments, **options)


async def test_the_list_is_for_people(key: str, keys: Keys) -> None:
    listed = await keys("list")
    assert "robot  things:read things:write" in listed
    assert key not in listed


def test_the_command() -> None:
    made = run("keys", "create", "--subject", "robot", "--scope", "a", "--expires-days", "1")
    assert (made.returncode, made.stdout[:3], len(made.stdout)) == (0, "sk_", 68)
    assert made.stderr.startswith("Key ")
    assert run("keys", "create", "--subject", "robot", "--expires-days", "0").returncode == 2


def test_a_database_without_the_table_is_explained() -> None:
    other = os.environ["DATABASE_URL"].rpartition("/")[0] + "/postgres"
    refused = run("keys", "list", DATABASE_URL=other)
    assert refused.returncode == 1
    assert "`python -m app migrate` makes the table." in refused.stderr
