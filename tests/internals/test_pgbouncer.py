"""Through PgBouncer in transaction mode the service runs with nothing changed but its URL.

Two server connections serve eight client connections, so that whatever a client leaves behind on
one (a prepared statement, a transaction) meets other clients.
"""

import asyncio
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import asyncpg
import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import bindparam, func, insert, make_url, select, text, update
from sqlalchemy.pool import QueuePool

from app.core.database import (
    Database,
    PreparedRead,
    PreparedWrite,
    ReadSession,
    WriteSession,
    database,
)
from app.core.http.problems import Unavailable
from app.settings import get_settings
from dev.processes import serve, workspace
from tests.core.plugin import migrated_database
from tests.internals.tables import Book, tables

ROOT = Path(__file__).parents[2]
# The first that tracks prepared statements in transaction mode.
NEEDED = (1, 21)
CLIENTS = 8
SERVERS = 2

CONFIGURATION = """\
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = scram-sha-256
auth_file = {users}
pool_mode = transaction
default_pool_size = {servers}
max_prepared_statements = 200
{drop_root}
"""

BACKEND = select(func.pg_backend_pid().label("pid"))
PREPARED_BACKEND = PreparedRead(BACKEND)
TITLES = PreparedRead(select(Book.title).order_by(Book.title))
ADD = PreparedWrite(insert(Book).values(title=bindparam("new")).returning(Book.title))
RENAME = PreparedWrite(
    update(Book)
    .where(Book.title == bindparam("old"))
    .values(title=bindparam("new"))
    .returning(Book.title)
)


def find_pgbouncer() -> str:
    """The program; skips the tests where there is none that is new enough."""
    found = os.environ.get("PGBOUNCER") or shutil.which("pgbouncer")
    version = "none"
    if found:
        command = [found, "--version"]
        output = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        version = output.stdout.partition("\n")[0]
        number = re.search(r"(\d+)\.(\d+)", version)
        if number and (int(number[1]), int(number[2])) >= NEEDED:
            return found
    pytest.skip(
        f"NOT TESTED WITH PGBOUNCER: it needs {'.'.join(map(str, NEEDED))} or newer, and found "
        f"{version}. Debian 13 and newer have it (`apt-get install pgbouncer`); or set PGBOUNCER "
        "to the program."
    )


@pytest.fixture(scope="module")
def pgbouncer() -> Iterator[str]:
    """PgBouncer before the server of the tests; the URL of this process's database through it."""
    program = find_pgbouncer()
    direct = make_url(os.environ["DATABASE_URL"])
    # A server that trusts everybody has none, but SCRAM does not go without.
    password = direct.password or "trusted"
    with ExitStack() as stack:
        home = stack.enter_context(workspace()) / "pgbouncer"
        home.mkdir()
        users, configuration = home / "users.txt", home / "pgbouncer.ini"
        users.touch(mode=0o600)
        escaped = password.replace('"', '""')
        users.write_text(f'"{direct.username}" "{escaped}"\n')

        def command(port: int) -> list[str]:
            configuration.write_text(
                CONFIGURATION.format(
                    host=direct.host,
                    port=direct.port or 5432,
                    listen_port=port,
                    users=users,
                    servers=SERVERS,
                    # It refuses to run as root, and changes its user once it has read its files.
                    drop_root="user = nobody" if os.geteuid() == 0 else "",
                )
            )
            return [program, str(configuration)]

        port = stack.enter_context(serve(command, _is_ready, home))
        through = direct.set(host="127.0.0.1", port=port, password=password, query={})
        yield through.render_as_string(hide_password=False)


def _is_ready(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
async def books(app: FastAPI) -> AsyncIterator[None]:
    async with tables():
        yield


def opened(url: str, pool_size: int) -> Database:
    """A database with the service's own settings but for the URL."""
    database = Database()
    settings = get_settings().model_copy(update={"database_url": SecretStr(url)})
    database.open(settings, pool_size=pool_size)
    return database


@pytest.fixture
async def many(pgbouncer: str, books: None) -> AsyncIterator[Database]:
    """More clients than PgBouncer has server connections."""
    database = opened(pgbouncer, CLIENTS)
    yield database
    await database.close()


@pytest.fixture
async def single(pgbouncer: str, books: None) -> AsyncIterator[Database]:
    """One client."""
    database = opened(pgbouncer, 1)
    yield database
    await database.close()


async def test_requests_share_the_server_connections(many: Database) -> None:
    session = ReadSession(many)
    backends: set[int] = set()

    async def request(number: int) -> None:
        title = f"book {number}"
        backends.update(row["pid"] for row in await session.fetch(PREPARED_BACKEND))
        backends.update(await session.scalars(BACKEND))
        async with WriteSession(many) as write:
            if number % 2:
                write.add(Book(title=title))
                backends.update(await write.scalars(BACKEND))
            else:
                await write.autocommit(ADD, new=title)
        async with WriteSession(many) as write:
            await write.write(RENAME, old=title, new=f"{title}!")
            backends.update(row["pid"] for row in await write.fetch(PREPARED_BACKEND))
        found = await session.scalar(select(Book).where(Book.title == f"{title}!"))
        assert found

    await asyncio.gather(*(request(number) for number in range(20 * CLIENTS)))

    pool = many.engine.pool
    assert isinstance(pool, QueuePool)
    assert pool.checkedin() == CLIENTS
    assert len(backends) == SERVERS
    assert len(await session.fetch(TITLES)) == 20 * CLIENTS


async def test_a_statement_runs_on_a_server_connection_that_never_saw_it(
    single: Database, many: Database
) -> None:
    session = ReadSession(single)
    async with many.engine.connect() as one, many.engine.connect() as other:
        # A transaction keeps its server connection, so that only the other one is free.
        first = await one.scalar(BACKEND)
        prepared, by_orm = await session.fetch_one(PREPARED_BACKEND), await session.scalar(BACKEND)
        second = await other.scalar(BACKEND)
        await one.rollback()
        prepared_again = await session.fetch_one(PREPARED_BACKEND)
        by_orm_again = await session.scalar(BACKEND)

    assert first != second
    assert [prepared, by_orm] == [{"pid": second}, second]
    assert [prepared_again, by_orm_again] == [{"pid": first}, first]


async def test_a_transaction_is_rolled_back_or_committed_as_one(many: Database) -> None:
    session = ReadSession(many)
    with pytest.raises(ZeroDivisionError):
        async with WriteSession(many) as write:
            write.add(Book(title="a"))
            await write.write(ADD, new="b")
            assert await write.scalars(select(Book.title).order_by(Book.title)) == ["a", "b"]
            raise ZeroDivisionError
    assert await session.fetch(TITLES) == []

    async with WriteSession(many) as write:
        write.add(Book(title="a"))
        await write.write(ADD, new="b")
    assert await session.fetch(TITLES) == [{"title": "a"}, {"title": "b"}]


async def test_a_statement_that_takes_too_long_ends_on_the_server(pgbouncer: str) -> None:
    hasty = Database()
    changes = {"database_url": SecretStr(pgbouncer), "database_statement_timeout_s": 0.2}
    hasty.open(get_settings().model_copy(update=changes), pool_size=1)
    session = ReadSession(hasty)
    running = (
        select(func.count())
        .select_from(text("pg_stat_activity"))
        .where(text("state = 'active' AND query LIKE '%through_pgbouncer%'"))
        .where(text("pid <> pg_backend_pid()"))
    )

    with pytest.raises(Unavailable, match="did not answer in time"):
        await session.scalar(select(func.pg_sleep(30).label("through_pgbouncer")))
    async with asyncio.timeout(5):
        while await session.scalar(running):
            await asyncio.sleep(0.01)

    await hasty.close()


async def test_a_server_connection_that_dies_is_replaced(single: Database) -> None:
    session = ReadSession(single)
    before = await session.fetch_one(PREPARED_BACKEND)
    assert before

    # While another uses it, and while it runs a statement of ours.
    async with database.autocommit_engine.connect() as connection:
        await connection.execute(select(func.pg_terminate_backend(before["pid"])))
    assert await session.fetch_one(PREPARED_BACKEND) not in (None, before)
    hang_up = PreparedRead(select(func.pg_terminate_backend(func.pg_backend_pid()).label("x")))
    with pytest.raises(Unavailable):
        await session.fetch(hang_up)
    assert await session.fetch(PREPARED_BACKEND)


def test_migrations_run_through_it(pgbouncer: str) -> None:
    with migrated_database() as url:
        through = make_url(pgbouncer).set(database=make_url(url).database)
        environment = os.environ | {"DATABASE_URL": through.render_as_string(hide_password=False)}
        for command in (["alembic", "downgrade", "base"], ["app", "migrate"], ["alembic", "check"]):
            subprocess.run(
                [sys.executable, "-m", *command],
                cwd=ROOT,
                env=environment,
                check=True,
                timeout=60,
            )


async def test_a_setting_sent_at_connect_is_refused(pgbouncer: str) -> None:
    with pytest.raises(asyncpg.ProtocolViolationError, match="unsupported startup parameter"):
        await asyncpg.connect(pgbouncer, server_settings={"statement_timeout": "5s"})
