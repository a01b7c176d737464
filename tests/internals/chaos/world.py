"""The service as production runs it, with a fault proxy in front of each of its servers."""

import asyncio
import os
import secrets
import ssl
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import psutil
import trustme

from dev.guardian import stop
from dev.processes import free_port, log_of, start, workspace
from tests.core.serving import ROOT
from tests.internals.chaos.bounds import (
    HAS_AUTH,
    HAS_BROKER,
    HAS_CACHE_SERVER,
    HAS_REPLICA,
    HAS_WORKER,
)
from tests.internals.chaos.items import TABLES
from tests.internals.chaos.judge import ITEMS, Stored, text_of
from tests.internals.fault_proxy import FaultProxy, fault_proxy
from tests.internals.postgres_server import Server, postgres_server

START_TIMEOUT_S = 60.0
# Settings that differ from the defaults: the plan of one small instance, and short waits.
VARIABLES = {
    "WEB_CONCURRENCY": "2",
    "CPU_CORES": "2",
    "INSTANCES": "1",
    "DATABASE_MAX_CONNECTIONS": "100",
    "DRAIN_DELAY_S": "0",
    "JOB_LEASE_S": "5",
    "CURSOR_SECRET": "chaos" * 8,
    # All clients have one address.
    "RATE_LIMIT": "",
    "RATE_LIMIT_FAILURES": "999999/second",
}


@dataclass
class World:
    """The servers, the proxies in front of them, and the processes of the service."""

    home: Path
    postgres: Server
    standby: Server | None = None
    # By name: postgres, replica, valkey, broker.
    proxies: dict[str, FaultProxy] = field(default_factory=dict)
    # By name: valkey, broker.
    caches: dict[str, Any] = field(default_factory=dict)
    password: str = field(default_factory=lambda: secrets.token_hex(16))
    variables: dict[str, str] = field(default_factory=dict)
    processes: dict[str, psutil.Popen] = field(default_factory=dict)
    authority: trustme.CA | None = None
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def address_file(self) -> Path:
        return self.home / "database-url"

    def write_address(self) -> None:
        """Write the address of PostgreSQL with the present password, as a secret that rotates."""
        port = self.proxies["postgres"].port
        options = "?sslmode=verify-full" if self.authority else ""
        url = f"postgresql://service:{self.password}@127.0.0.1:{port}/service{options}"
        self.address_file.write_text(url)

    async def sql(self, sql: str, *values: object, database: str = "service") -> list[Any]:
        """Run a statement on the primary as its superuser, past the proxy; return the rows."""
        url = self.postgres.url.removesuffix("postgres") + database
        connection = await asyncpg.connect(
            url, timeout=10, server_settings={"default_transaction_read_only": "off"}
        )
        try:
            return [*await connection.fetch(sql, *values)]
        finally:
            await connection.close()

    async def checks(self) -> dict[str, str]:
        """Return the dependencies that a worker of the service finds not to be in order."""
        url = f"http://127.0.0.1:{self.admin_port}/readyz"
        async with httpx2.AsyncClient(timeout=10) as client:
            checks: dict[str, str] = (await client.get(url)).json()["checks"]
        return {name: state for name, state in checks.items() if state != "ok"}

    async def stored(self) -> Stored:
        """Return the contents of the database; times are of the monotonic clock."""
        items = await self.sql("SELECT id, version, text FROM chaos_item")
        assert all(row["text"] == text_of(row["id"], row["version"]) for row in items)
        entries = await self.sql("SELECT token FROM chaos_entry")
        effects = await self.sql("SELECT token, min(at) AS at FROM chaos_effect GROUP BY token")
        offset_s = time.time() - time.monotonic()
        return Stored(
            {str(row["id"]): row["version"] for row in items},
            {str(row["token"]) for row in entries},
            {str(row["token"]): row["at"].timestamp() - offset_s for row in effects},
        )

    def start(self, name: str, *arguments: str, **variables: str) -> psutil.Popen:
        """Start `python -m ARGUMENTS`, which is `processes[name]` from now on."""
        command = [sys.executable, "-m", *arguments]
        process = start(command, self.home / name, cwd=ROOT, variables=self.variables | variables)
        self.processes[name] = process
        return process

    def log(self, name: str) -> str:
        return log_of(self.home / name).read_text(errors="replace")

    async def serve(self) -> None:
        """Migrate, and start the service and its worker; return when it is ready."""
        code = await asyncio.to_thread(self.start("migrate", "app", "migrate").wait)
        assert code == 0, self.log("migrate")
        for table in TABLES.split(";")[:-1]:
            await self.sql(table)
        for item in range(ITEMS):
            await self.sql("INSERT INTO chaos_item VALUES ($1, 1, $2)", item, text_of(item, 1))
        for table in ("chaos_item", "chaos_entry", "chaos_effect"):
            await self.sql(f"ALTER TABLE {table} OWNER TO service")
        self.start("serve", "app", "serve")
        if HAS_WORKER:
            self.start("worker", "app", "worker")
        deadline = time.monotonic() + START_TIMEOUT_S
        while not await self._is_ready():
            assert time.monotonic() < deadline, self.log("serve")
            await asyncio.sleep(0.1)

    def stop(self) -> None:
        for process in self.processes.values():
            stop(process)

    async def _is_ready(self) -> bool:
        async with httpx2.AsyncClient(base_url=self.url, timeout=5) as client:
            try:
                return bool((await client.get("/readyz")).json() == {"status": "ok"})
            except httpx2.TransportError:
                return False

    def certify(self, *, is_expired: bool = False) -> None:
        """Give the proxies a certificate."""
        assert self.authority
        until = datetime(2020, 1, 1, tzinfo=UTC) if is_expired else None
        since = datetime(2019, 1, 1, tzinfo=UTC) if is_expired else None
        certificate = self.authority.issue_cert("127.0.0.1", not_before=since, not_after=until)
        for proxy in self.proxies.values():
            proxy.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(proxy.tls)


@contextmanager
def _postgres(*, has_standby: bool, is_synchronous: bool) -> Iterator[tuple[Server, Server | None]]:
    if not has_standby:
        with postgres_server() as primary:
            yield primary, None
        return
    from tests.internals.replica.servers import primary_and_replica

    names = {"synchronous_standby_names": "*"} if is_synchronous else {}
    with primary_and_replica(synchronous_commit="on", **names) as servers:
        yield servers


@asynccontextmanager
async def world(
    *, tls: bool = False, failover: bool = False, variables: Mapping[str, str]
) -> AsyncIterator[World]:
    """Run everything until the block ends; `failover` adds a synchronous standby."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(workspace())
        primary, standby = stack.enter_context(
            _postgres(has_standby=failover or HAS_REPLICA, is_synchronous=failover)
        )
        made = World(home, primary, standby)
        if tls:
            made.authority = trustme.CA()
            made.authority.cert_pem.write_to_path(home / "ca.pem")
        await _prepare(made)
        ports = {"postgres": primary.port}
        if HAS_REPLICA:
            assert standby
            ports["replica"] = standby.port
        for name in ["valkey"] * HAS_CACHE_SERVER + ["broker"] * HAS_BROKER:
            from tests.internals.broker_server import BrokerServer

            options = (
                {"appendonly": "yes", "maxmemory-policy": "noeviction"}
                if name == "broker"
                else {"maxmemory-policy": "allkeys-lfu", "maxmemory": "64mb"}
            )
            made.caches[name] = BrokerServer(home, name, password=made.password, **options)
            await asyncio.to_thread(made.caches[name].start)
            stack.callback(made.caches[name].kill)
            ports[name] = made.caches[name].port
        for name, port in ports.items():
            proxy = await stack.enter_async_context(fault_proxy(port))
            proxy.is_postgres = name in ("postgres", "replica")
            made.proxies[name] = proxy
        _configure(made)
        if HAS_AUTH:
            issuer = import_module("dev.issuer")
            made.variables["AUTH_ISSUER"] = stack.enter_context(issuer.issuer())
            made.variables["AUTH_AUDIENCE"] = issuer.AUDIENCE
        made.variables |= variables if HAS_CACHE_SERVER else {}
        stack.callback(made.stop)
        await made.serve()
        yield made


async def _prepare(made: World) -> None:
    """Make the role and the database of the service."""
    await made.sql(f"CREATE ROLE service LOGIN PASSWORD '{made.password}'", database="postgres")
    await made.sql("CREATE DATABASE service OWNER service", database="postgres")


def _configure(made: World) -> None:
    made.write_address()
    made.variables = VARIABLES | {
        "PORT": str(made.port),
        "ADMIN_PORT": str(made.admin_port),
        "DATABASE_URL_FILE": str(made.address_file),
    }
    scheme, options = "redis", ""
    if made.authority:
        made.certify()
        made.variables["PGSSLROOTCERT"] = str(made.home / "ca.pem")
        scheme, options = "rediss", f"?ssl_ca_certs={made.home / 'ca.pem'}"
    if HAS_REPLICA:
        url = made.address_file.read_text()
        own, replica = made.proxies["postgres"].port, made.proxies["replica"].port
        made.variables["DATABASE_REPLICA_URL"] = url.replace(f":{own}/", f":{replica}/")
    for name, variable in (("valkey", "CACHE_URL"), ("broker", "BROKER_URL")):
        if name in made.caches:
            address = f"127.0.0.1:{made.proxies[name].port}/0{options}"
            made.variables[variable] = f"{scheme}://:{made.password}@{address}"


def versions(made: World) -> dict[str, str]:
    """Return the versions of the machine and of what was measured."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"Python": ".".join(map(str, sys.version_info[:3])), "cores": str(cores)}
    for cache in made.caches.values():
        found["Valkey"] = cache.client.info("server")["valkey_version"]
    return found
