"""What every test stands on: real servers, a database of its own, the application and a client.

The servers are started once; each test process makes its own database on them by the real
migrations, and empties it after each test that used it. `TEST_DATABASE_URL` and the like name
servers to use instead of the embedded ones; only databases made here are ever written to.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager

import asyncpg
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import URL, make_url, text

from dev.servers import servers
from dev.signals import terminate_as_interrupt
from dev.workspace import workspace

_session = ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers and make this process's database, before a test imports the application."""
    in_worker = hasattr(session.config, "workerinput")
    if not in_worker:
        prefix = "TEST_"
        given = {
            name.removeprefix(prefix): value
            for name, value in os.environ.items()
            if name.startswith(prefix)
        }
        _session.enter_context(terminate_as_interrupt())
        home = _session.enter_context(workspace())
        os.environ.update(_session.enter_context(servers(home, given)))
    if in_worker or session.config.getoption("dist", "no") == "no":
        os.environ["DATABASE_URL"] = _session.enter_context(migrated_database())


def pytest_unconfigure() -> None:
    _session.close()


@contextmanager
def migrated_database() -> Iterator[str]:
    """The URL of a new database with all migrations, on the server of `DATABASE_URL`."""
    server = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql")
    name = f"test_{secrets.token_hex(8)}"
    url = server.set(database=name).render_as_string(hide_password=False)
    _administer(server, f'CREATE DATABASE "{name}"')
    try:
        environment = os.environ | {"DATABASE_URL": url}
        subprocess.run([sys.executable, "-m", "app", "migrate"], env=environment, check=True)
        yield url
    finally:
        _administer(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def _administer(server: URL, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(server.render_as_string(hide_password=False))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """The event loop of production; one for all tests, because pools belong to a loop."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fails a test whose event loop is blocked by a call that should have been awaited."""
    with blockbuster_ctx() as detector:
        for function in detector.functions.values():
            # To open a connection, asyncpg looks for certificates in the home directory.
            function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")
        yield detector


@pytest.fixture(scope="session")
async def app() -> AsyncIterator[FastAPI]:
    """The application, with its lifespan running."""
    from app.main import app

    async with app.router.lifespan_context(app):
        yield app


@pytest.fixture
async def database(app: FastAPI) -> AsyncIterator[None]:
    """The database; emptied afterwards."""
    from app.core import jobs
    from app.core.database import Base, database

    yield
    await jobs.drain()
    tables = ", ".join(f'"{table.name}"' for table in Base.metadata.sorted_tables)
    if tables:
        async with database.writer.begin() as connection:
            await connection.execute(text(f"TRUNCATE {tables} CASCADE"))


@pytest.fixture
async def client(app: FastAPI, database: None) -> AsyncIterator[AsyncClient]:
    """A client of the application in this process; an unexpected error is a 500, as for users."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
