"""What every test stands on: real servers, a database of its own, the application and a client.

The servers are started once; each test process makes its own database on them by the real migrations,
and empties it after each test that used it. `TEST_DATABASE_URL` and the like name servers to use instead
of the embedded ones; only databases that were created here are ever written to.
"""

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import asyncpg
import pytest
from blockbuster import BlockBuster, blockbuster_ctx
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from sqlalchemy import make_url, text

from dev.servers import servers
from dev.signals import terminate_as_interrupt
from dev.workspace import workspace

_session = ExitStack()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Start the servers and make this process's database, before any test imports the application."""
    if not hasattr(session.config, "workerinput"):  # the only process, or the one that starts the others
        prefix = "TEST_"
        given = {
            name.removeprefix(prefix): value
            for name, value in os.environ.items()
            if name.startswith(prefix)
        }
        _session.enter_context(terminate_as_interrupt())
        os.environ.update(_session.enter_context(servers(_session.enter_context(workspace()), given)))
    if session.config.getoption("dist", "no") == "no" or hasattr(session.config, "workerinput"):
        _make_database()


def pytest_sessionfinish() -> None:
    _session.close()


def _make_database() -> None:
    server = make_url(os.environ["DATABASE_URL"]).set(drivername="postgresql")
    name = f"test_{secrets.token_hex(8)}"
    _administer(server.render_as_string(hide_password=False), f'CREATE DATABASE "{name}"')
    _session.callback(
        _administer,
        server.render_as_string(hide_password=False),
        f'DROP DATABASE "{name}" WITH (FORCE)',
    )
    os.environ["DATABASE_URL"] = server.set(database=name).render_as_string(hide_password=False)
    subprocess.run([sys.executable, "-m", "app", "migrate"], check=True)


def _administer(url: str, statement: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url)
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
    """A client of the application in this process; an unexpected error is a 500, as it is for users."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
