"""The servers and services that all axes are measured on."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from dev.valkey import valkey

from benchmarks.growth import seeding
from benchmarks.harness.cluster import fresh_cluster
from benchmarks.harness.services import CURSOR_SECRET, SERVICES, Renderings, Running, lay_over, migrate, running

DOMAIN = "growth"
# The clients of a closed loop ask again at once, so the refusals of a part of them would hide the rest.
NO_LIMITER = {"MAX_QUEUE_MS": "0", "MAX_IN_FLIGHT": "1000000"}
_SETTINGS = {
    # For fast loading of many rows.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "maintenance_work_mem": "512MB",
    # The whole text of the statements that the service runs.
    "track_activity_query_size": "16384",
}


@dataclass(frozen=True)
class Site:
    """The servers with their rows, and the rendered service without a cache and with Valkey."""

    home: Path
    url: str
    variables: Mapping[str, str]
    servers: tuple[psutil.Process, ...]
    renderings: Renderings
    say: Callable[[str], None]

    def directory(self, cache_backend: str) -> Path:
        return self.renderings.directory(cache_backend)

    @contextmanager
    def service(self, *, workers: int, cache_backend: str = "none", **variables: str) -> Iterator[Running]:
        """Run the rendered service; yields it when all its workers answer."""
        started = running(
            SERVICES["rendered"],
            workers=workers,
            cached=False,
            directory=self.directory(cache_backend),
            variables={**self.variables, **variables},
            workspace=self.home,
        )
        with started as service:
            service.wait_until_ready()
            yield service

    def python(self, cache_backend: str, *arguments: str, **variables: str) -> str:
        """Run a module of the rendered service; return what it prints."""
        process = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=self.directory(cache_backend),
            env={**os.environ, **self.variables, "CURSOR_SECRET": CURSOR_SECRET, **variables},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        return process.stdout


@contextmanager
def site(home: Path, say: Callable[[str], None]) -> Iterator[Site]:
    """Start the servers, render the service, and make the users; there are no posts yet."""
    say("starting PostgreSQL and Valkey")
    before = set(psutil.Process().children())
    with (
        fresh_cluster(home, **_SETTINGS) as url,
        valkey(home, variable="CACHE_URL", maxmemory_policy="allkeys-lfu", maxmemory="256mb") as cache_url,
    ):
        servers = tuple(each for each in psutil.Process().children() if each not in before)
        renderings = Renderings(home)
        lay_over(renderings.directory("valkey"), (DOMAIN,))
        variables = {"DATABASE_URL": url, "CACHE_URL": cache_url, "UPSTREAM_URL": "http://127.0.0.1:9"}
        migrate(renderings.directory("none"), variables)
        asyncio.run(seeding.make_users(url))
        yield Site(home, url, variables, servers, renderings, say)
