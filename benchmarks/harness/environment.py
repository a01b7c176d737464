"""What every service of a run shares: servers with their rows, the service that all of them call, and renderings."""

import asyncio
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import asyncpg
import psutil
import redis
from dev.guardian import stop
from dev.processes import ServerUnavailable, free_port, start
from dev.valkey import valkey

from benchmarks.harness import machine, seeding
from benchmarks.harness.cluster import kept_cluster
from benchmarks.harness.services import Renderings, answers, migrate
from tests.rendering import ROOT

UPSTREAM_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Environment:
    """`servers` are the processes of database and cache, as far as they are ours to account for."""

    workspace: Path
    variables: Mapping[str, str]
    renderings: Renderings
    rows: seeding.Rows
    servers: tuple[psutil.Process, ...]
    upstream: psutil.Process
    # Whether all CPU time that the run uses can be told from other processes'.
    accountable: bool
    server_versions: Mapping[str, str]

    def pin(self, cores: frozenset[int] | None) -> None:
        machine.pin([*self.servers, self.upstream], cores)


@contextmanager
def environment(
    workspace: Path,
    size: seeding.Size,
    depth: int,
    say: Callable[[str], None],
    *,
    database_url: str | None = None,
    cache_url: str | None = None,
) -> Iterator[Environment]:
    """Start what is not given, and fill the database unless an earlier run did.

    Raises:
        UnusableServer: when a given server cannot be reached, or its database holds anything else.
        ClusterInUse: while another benchmark runs.
        ServerUnavailable: when a server cannot be started.
    """
    # A wrong address ends the run before anything is started or rendered.
    cache_version = _cache_version(cache_url) if cache_url else ""
    found = _state(database_url, size) if database_url else None
    if found is False:
        raise seeding.UnusableServer(
            "The database that --database-url names holds other tables, or rows of another size: "
            "name an empty database."
        )
    renderings = Renderings(workspace)
    with ExitStack() as stack:
        say("starting PostgreSQL and Valkey")
        cache = cache_url or stack.enter_context(
            valkey(workspace, variable="--cache-url", maxmemory_policy="allkeys-lfu", maxmemory="256mb")
        )
        database = database_url or _embedded(stack, workspace, size)
        servers = tuple(psutil.Process().children())
        variables = {"DATABASE_URL": database, "CACHE_URL": cache}
        cache_version = cache_version or _cache_version(cache)
        if not database_url:
            found = asyncio.run(seeding.state(database, size))
        if found is None:
            say(f"making {size.users:,} users and {size.posts:,} posts, once")
            migrate(renderings.directory("none"), variables)
            asyncio.run(seeding.seed(database, size))
        say("reading the rows")
        rows = asyncio.run(seeding.look(database, depth=depth))
        port, process = upstream(stack, workspace)
        yield Environment(
            workspace=workspace,
            variables=variables | {"UPSTREAM_URL": f"http://127.0.0.1:{port}"},
            renderings=renderings,
            rows=rows,
            servers=servers,
            upstream=process,
            accountable=not (database_url or cache_url),
            server_versions={"postgresql": asyncio.run(seeding.server_version(database)), "cache": cache_version},
        )


def _state(url: str, size: seeding.Size) -> bool | None:
    try:
        return asyncio.run(seeding.state(url, size))
    except (OSError, ValueError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise seeding.UnusableServer(f"--database-url: {error}") from error


def _cache_version(url: str) -> str:
    try:
        with redis.Redis.from_url(url) as client:
            found = client.info("server")
    except (redis.RedisError, ValueError) as error:
        raise seeding.UnusableServer(f"--cache-url: {error}") from error
    if "valkey_version" in found:
        return f"Valkey {found['valkey_version']}"
    return f"Redis {found['redis_version']}"


def _embedded(stack: ExitStack, workspace: Path, size: seeding.Size) -> str:
    cluster = ExitStack()
    stack.enter_context(cluster)
    url = cluster.enter_context(kept_cluster(workspace))
    if asyncio.run(seeding.state(url, size)) is False:
        # Rows of another size, or of a run that was interrupted while it made them.
        cluster.close()
        url = cluster.enter_context(kept_cluster(workspace, new=True))
    return url


def upstream(stack: ExitStack, workspace: Path) -> tuple[int, psutil.Process]:
    """Start the service that all services call; returns its port and its process."""
    port = free_port()
    home = Path(mkdtemp(prefix="upstream-", dir=workspace))
    process = start([sys.executable, "-m", "benchmarks.harness.upstream", str(port)], home, cwd=ROOT)
    stack.callback(stop, process)
    deadline = time.monotonic() + UPSTREAM_TIMEOUT_S
    while answers(port) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServerUnavailable(f"The service that all services call did not start: {home}.log")
        time.sleep(0.05)
    return port, process
