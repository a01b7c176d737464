"""Each finding of `python -m app check` is found, and is not found where there is none."""

import asyncio
import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr
from sqlalchemy import make_url

from app.core.database import revisions
from app.core.operations import facts
from app.core.operations.check import SEVERITIES, TEXTS, findings, judge
from app.core.settings import CoreSettings
from app.settings import get_settings
from tests.core.plugin import migrated_database
from tests.internals.commands import run

PLAN = get_settings().plan()
SECRET = SecretStr("6f1c6fd0a7b94e28b2c1d8a35e7790ff")
# What a deployment in order has.
SETTINGS: dict[str, Any] = dict.fromkeys(CoreSettings.model_fields) | {
    "host": "0.0.0.0",  # noqa: S104 - it is not listened to
    "server_timing": False,
    "log_level": "INFO",
    "docs": False,
    "allowed_hosts": ("api.example.org",),
    "cors_origins": ("https://example.org",),
    "trusted_proxies": ("10.0.0.0/8",),
    "admin_host": "127.0.0.1",
    "cache_version": "0a1b2c3",
    "cache_ttl_s": 60.0,
    "instances": 1,
    "static_directory": "/srv/static",
    "database_replica_url": SECRET,
    "cursor_secret": SECRET,
    "auth_issuer": "https://login.example.org",
    "database_url": SecretStr("postgresql://orders:x7Bq-random@db/orders"),
}
POSTGRES: dict[str, Any] = {
    "connections": 97,
    "is_superuser": False,
    "is_read_only": False,
    "has_pooler": False,
    "unsafe": [],
    "unindexed": [],
    "invalid": [],
    "missing": "",
}
SERVERS: dict[str, dict[str, Any]] = {
    "database": POSTGRES,
    "database_replica": POSTGRES | {"is_read_only": True},
    "cache": {
        "maxmemory": 2**26,
        "maxmemory_policy": "allkeys-lfu",
        "aof_enabled": 0,
        "rdb_saves": 0,
        "run_id": "a",
    },
    "broker": {"maxmemory_policy": "noeviction", "aof_enabled": 1, "run_id": "b"},
}


def settings(**changed: Any) -> dict[str, Any]:
    return {"settings": SETTINGS | changed}


def server(name: str, **changed: Any) -> dict[str, Any]:
    return {"servers": SERVERS | {name: SERVERS[name] | changed}}


def plan(**changed: Any) -> dict[str, Any]:
    return {"plan": PLAN.__class__(**vars(PLAN) | {"workers": 1} | changed)}


def environment(**variables: str) -> dict[str, Any]:
    return {"environment": variables}


DOWN = {"problem": "ConnectionRefusedError: port 5432"}
# The id of each finding; facts with it; a part of its sentence.
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("settings.host", settings(host="127.0.0.1"), "HOST is 127.0.0.1"),
    ("settings.misspelt", environment(DATABASE_POOLSIZE="3"), "is it DATABASE_POOL_SIZE?"),
    ("settings.misspelt", environment(DATABSE_URL_FILE="/x"), "is it DATABASE_URL_FILE?"),
    ("settings.file", environment(PORT="1", PORT_FILE="/x"), "PORT_FILE"),
    ("settings.server_timing", settings(server_timing=True), "SERVER_TIMING"),
    ("settings.static_directory", settings(static_directory=None), "STATIC_DIRECTORY"),
    ("settings.auth_issuer", settings(auth_issuer="http://[::1]:9000"), "http://[::1]:9000"),
    ("settings.secrets", settings(cursor_secret=SecretStr("development" * 3)), "CURSOR_SECRET"),
    ("settings.secrets", settings(token=SecretStr("please-changeme-" + "x7" * 9)), "TOKEN"),
    ("settings.secrets", settings(a_url=SecretStr("redis://:password@host/0")), "A_URL"),
    (
        "settings.secrets",
        settings(database_url=SecretStr("postgresql://orders:orders@db/orders")),
        "DATABASE_URL",
    ),
    ("settings.allowed_hosts", settings(allowed_hosts=()), "ALLOWED_HOSTS"),
    ("settings.cors_origins", settings(cors_origins=("*",)), "CORS_ORIGINS"),
    ("settings.trusted_proxies", settings(trusted_proxies=()), "TRUSTED_PROXIES"),
    ("settings.docs", settings(docs=True), "DOCS"),
    ("settings.admin_host", settings(admin_host="::"), "ADMIN_HOST is ::"),
    ("settings.log_level", settings(log_level="DEBUG"), "DEBUG"),
    ("capacity.memory", plan(fits=False), "MiB"),
    ("server.modules", {"missing_modules": ["uvloop"]}, "uvloop"),
    ("server.open_files", {"open_files": 256}, "256"),
    ("database.unavailable", {"servers": {"database": DOWN}}, "port 5432"),
    ("database.max_connections", server("database", connections=9) | plan(connections=20), "9"),
    ("database.pooler", server("database", has_pooler=True), "pooler"),
    ("database.superuser", server("database", is_superuser=True), "superuser"),
    ("database.read_only", server("database", is_read_only=True), "read-only"),
    ("database.durability", server("database", unsafe=["fsync"]), "fsync"),
    ("database.migrations", server("database", missing="0007"), "0007"),
    ("database.foreign_keys", server("database", unindexed=["a: b"]), "a: b"),
    ("database.invalid_indexes", server("database", invalid=["ix_a"]), "ix_a"),
    ("jobs.dead", server("database", dead_jobs=3), "3 background jobs failed"),
    ("replica.absent", settings(database_replica_url=None), "DATABASE_REPLICA_URL"),
    ("replica.unavailable", {"servers": {"database_replica": DOWN}}, "port 5432"),
    ("replica.primary", server("database_replica", is_read_only=False), "no replica"),
    ("replica.max_connections", server("database_replica", connections=2), "leaves 2"),
    ("cache.version", settings(cache_version=""), "CACHE_VERSION"),
    ("cache.unavailable", {"servers": {"cache": DOWN}}, "port 5432"),
    ("cache.memory", server("cache", maxmemory=0), "no memory limit"),
    ("cache.eviction", server("cache", maxmemory_policy="noeviction"), "noeviction"),
    ("cache.eviction", server("cache", maxmemory_policy="volatile-lru"), "volatile-lru"),
    ("cache.persistence", server("cache", aof_enabled=1), "aof_enabled = 1"),
    ("cache.persistence", server("cache", rdb_saves=3), "rdb_saves = 3"),
    ("cache.workers", plan(workers=3), "3 workers"),
    ("cache.workers", plan(workers=2) | settings(instances=4), "8 workers"),
    ("broker.unavailable", {"servers": {"broker": DOWN}}, "port 5432"),
    ("broker.eviction", server("broker", maxmemory_policy="allkeys-lru"), "allkeys-lru"),
    ("broker.persistence", server("broker", aof_enabled=0), "append-only"),
    ("broker.shared", server("broker", run_id="a"), "also the server of the cache"),
]
KNOWN = TEXTS["always"] | TEXTS["deploy"]
IN_ORDER: dict[str, Any] = {
    **settings(),
    **plan(),
    "environment": {},
    "open_files": 2**20,
    "missing_modules": [],
    "servers": SERVERS,
}


def found(facts: Mapping[str, Any], *, deploy: bool = True) -> dict[str, str]:
    """Return the sentences by id."""
    results = judge(**{**IN_ORDER, **facts})
    return {finding.id: finding.sentence for finding in findings(results, deploy=deploy)}


def test_a_deployment_in_order_has_no_findings() -> None:
    assert found({}) == {}


@pytest.mark.parametrize(
    ("name", "facts", "part"),
    [pytest.param(*case, id=f"{case[0]}-{case[2]}") for case in CASES if case[0] in KNOWN],
)
def test_each_finding(name: str, facts: Mapping[str, Any], part: str) -> None:
    sentences = found(facts)

    assert list(sentences) == [name]
    assert part in sentences[name]
    assert (name in found(facts, deploy=False)) == (name in TEXTS["always"])


def test_every_finding_has_a_case_a_condition_and_a_severity() -> None:
    assert KNOWN.keys() <= {name for name, _, _ in CASES}
    results = judge(**IN_ORDER)
    assert KNOWN.keys() <= results.keys()
    assert results.keys() - KNOWN.keys() <= {"broker.shared", "broker.persistence"}
    assert {severity for severity, _, _ in KNOWN.values()} <= set(SEVERITIES)


def test_the_judged_settings_exist() -> None:
    names = {"host", "log_level", "server_timing", "docs", "allowed_hosts", "cors_origins"}
    assert names | {"trusted_proxies", "admin_host"} <= CoreSettings.model_fields.keys()


@pytest.mark.parametrize(
    "facts",
    [
        environment(DATABASE_URL="x", DATABASE_URL_FILE="", PATH="/bin", TEST_DATABASE_URL="x"),
        environment(HOSTNAME="pod", HOME="/", DATABASE_NAME="x"),
        settings(cursor_secret=SecretStr("01234567890123456789012345678901")),
        settings(admin_host="10.0.0.7"),
        server("database", connections=9, has_pooler=True) | {"servers": {}},
        {"open_files": 1024},
    ],
)
def test_what_is_in_order(facts: Mapping[str, Any]) -> None:
    assert found(facts) == {}


@pytest.fixture
def database() -> Iterator[str]:
    """A migrated database, as a role without privileges sees it; drops both afterwards."""
    name = f"test_{secrets.token_hex(8)}"
    with migrated_database() as url:
        administer(
            url,
            f"CREATE ROLE {name} LOGIN PASSWORD 'x7Bq-random'",
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {name}",
        )
        address = make_url(url).set(username=name, password="x7Bq-random")  # noqa: S106
        yield address.render_as_string(hide_password=False)
        administer(url, f"DROP OWNED BY {name}", f"DROP ROLE {name}")


def administer(url: str, *statements: str) -> None:
    """Run statements one by one; a unique index that cannot be built stays, and is invalid."""

    async def execute() -> None:
        connection = await asyncpg.connect(url)
        for statement in statements:
            with suppress(asyncpg.UniqueViolationError):
                await connection.execute(statement)
        await connection.close()

    asyncio.run(execute())


def live(**changed: Any) -> dict[str, str]:
    """Return the findings about the servers of the tests, which lose data when they stop."""
    settings = get_settings().model_copy(update=changed)
    answers = asyncio.run(facts.ask_servers(settings))
    sentences = found({"settings": dict(settings), "plan": settings.plan(), "servers": answers})
    servers = ("database.", "cache.", "broker.", "jobs.")
    ours = {"database.durability", "broker.persistence", "cache.version", "cache.workers"}
    return {
        name: text
        for name, text in sentences.items()
        if name.startswith(servers) and name not in ours
    }


def test_live_servers_in_order(database: str) -> None:
    assert live(database_url=SecretStr(database)) == {}


def test_a_broken_database(database: str) -> None:
    administrator = make_url(os.environ["DATABASE_URL"])
    address = make_url(database)
    url = administrator.set(drivername="postgresql", database=address.database)
    administer(
        url.render_as_string(hide_password=False),
        "DROP TABLE IF EXISTS alembic_version",
        "CREATE TABLE test_shelves (id int PRIMARY KEY)",
        "CREATE TABLE test_books (shelf int CONSTRAINT on_shelf REFERENCES test_shelves)",
        "INSERT INTO test_shelves VALUES (1)",
        "INSERT INTO test_books VALUES (1), (1)",
        "CREATE UNIQUE INDEX CONCURRENTLY ix_broken ON test_books (shelf)",
        f"ALTER ROLE {address.username} CONNECTION LIMIT 4",
        f"ALTER ROLE {address.username} SET default_transaction_read_only = on",
    )
    sentences = live(database_url=SecretStr(database))

    migrations = {"database.migrations"} if revisions.of_this_release().heads else set()
    assert sentences.keys() == migrations | {
        "database.read_only",
        "database.max_connections",
        "database.foreign_keys",
        "database.invalid_indexes",
    }
    assert "leaves 4" in sentences["database.max_connections"]
    assert "test_books: on_shelf" in sentences["database.foreign_keys"]
    assert "ix_broken" in sentences["database.invalid_indexes"]


def test_a_superuser_is_seen() -> None:
    assert live().keys() == {"database.superuser"}


@pytest.mark.skipif(
    not {"cache_url", "broker_url"} <= CoreSettings.model_fields.keys(), reason="has one server"
)
def test_a_broker_is_no_cache(database: str) -> None:
    url = SecretStr(os.environ["BROKER_URL"])

    found = live(database_url=SecretStr(database), cache_url=url)

    assert found.keys() == {"cache.eviction", "broker.shared"}


def test_a_server_that_hangs_is_a_finding() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"postgresql://app:hunter2@127.0.0.1:{server.getsockname()[1]}/app"
        sentences = live(database_url=SecretStr(url), database_connect_timeout_s=0.1)

    assert sentences == {
        "database.unavailable": "The database does not answer: TimeoutError: no answer in time."
    }
    assert "hunter2" not in str(sentences)


@pytest.mark.skipif("cache_url" not in CoreSettings.model_fields, reason="has no cache server")
def test_a_server_that_drips_is_a_finding(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "TIMEOUT_S", 0.5)
    ended = threading.Event()

    def drip(server: socket.socket) -> None:
        with suppress(OSError), server.accept()[0] as connection:
            while not ended.wait(0.1):
                connection.send(b"+")

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=drip, args=[server], daemon=True).start()
        url = SecretStr(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        sentences = live(database_url=SecretStr(database), cache_url=url)
        ended.set()

    assert "no answer within 0.5 s" in sentences["cache.unavailable"]


def test_the_command_reports_servers_that_are_down() -> None:
    schemes = {"database": "postgresql", "cache": "redis", "broker": "redis"}
    down = {
        f"{name.upper()}_URL": f"{scheme}://:hunter2@127.0.0.1:1/0"
        for name, scheme in schemes.items()
        if f"{name}_url" in CoreSettings.model_fields
    }
    process = run("check", "--deploy", "--json", **down)

    assert (process.returncode, process.stderr) == (1, "")
    rows = {row["id"]: row for row in json.loads(process.stdout)}
    assert {f"{name.lower().removesuffix('_url')}.unavailable" for name in down} <= rows.keys()
    assert rows["database.unavailable"]["severity"] == "error"
    assert rows["database.unavailable"]["remedy"].startswith("Correct DATABASE_URL")
    assert "hunter2" not in process.stdout
    assert ".." not in process.stdout
