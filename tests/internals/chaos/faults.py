"""The faults: each is a context that begins a fault, and ends it when its block ends."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.internals.chaos.bounds import HAS_OUTBOX, HAS_WORKER
from tests.internals.chaos.world import World
from tests.internals.postgres_server import between

HELD_S = 4.0
SLOW_S = 0.04
# The time in which a client writes after a snapshot, and until an operator or a script reacts.
REACTION_S = 1.5
# Longer than the limit on a statement (DATABASE_STATEMENT_TIMEOUT_S).
HUNG_S = 8.0

Apply = Callable[[World], AbstractAsyncContextManager[None]]


@dataclass(frozen=True)
class Fault:
    """`servers` are those that it strikes; `allowed` are the errors that clients may see.

    A fault that ends itself has no time to hold.
    """

    name: str
    servers: frozenset[str]
    apply: Apply
    allowed: frozenset[str]
    held_s: float = HELD_S
    # Whether the service declares that it may lose jobs.
    loses_jobs: bool = False
    # What the world needs: tls, failover.
    world: str = ""


def _server(world: World, name: str) -> Any:
    return world.postgres if name == "postgres" else world.caches[name]


def killed(world: World, name: str) -> AbstractAsyncContextManager[None]:
    server = _server(world, name)
    return between(server.kill, server.start)


def hung(world: World, name: str) -> AbstractAsyncContextManager[None]:
    """Stop the processes of the server: connections are accepted, and nothing is answered."""
    server = _server(world, name)
    return between(server.suspend, server.resume)


@asynccontextmanager
async def slow(world: World, name: str) -> AsyncIterator[None]:
    world.proxies[name].delay_s = SLOW_S
    yield
    world.proxies[name].delay_s = 0.0


@asynccontextmanager
async def silent(world: World, name: str) -> AsyncIterator[None]:
    """Lose every packet, as a network does whose other side is gone."""
    world.proxies[name].silent = True
    yield
    world.proxies[name].silent = False


@asynccontextmanager
async def reset(world: World, name: str) -> AsyncIterator[None]:
    """Reset all connections again and again; new ones are accepted in between."""

    async def cut() -> None:
        while True:
            world.proxies[name].cut()
            await asyncio.sleep(0.2)

    task = asyncio.create_task(cut())
    yield
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def full(world: World, name: str) -> AsyncIterator[None]:
    """PostgreSQL has no connection left, Valkey no memory."""
    if name == "postgres":
        await world.sql("ALTER ROLE service CONNECTION LIMIT 1")
        world.proxies[name].cut()
        yield
        await world.sql("ALTER ROLE service CONNECTION LIMIT -1")
        return
    client = world.caches[name].client
    limit = client.config_get("maxmemory")["maxmemory"]
    client.config_set("maxmemory", 1)
    yield
    client.config_set("maxmemory", limit)


@asynccontextmanager
async def no_clients(world: World, name: str) -> AsyncIterator[None]:
    client = world.caches[name].client
    client.config_set("maxclients", 1)
    world.proxies[name].cut()
    yield
    client.config_set("maxclients", 10_000)


@asynccontextmanager
async def emptied(world: World, name: str) -> AsyncIterator[None]:
    await asyncio.to_thread(world.caches[name].restore)
    yield


@asynccontextmanager
async def restored(world: World, name: str) -> AsyncIterator[None]:
    """Start the server again with the data of `REACTION_S` ago."""
    server = world.caches[name]
    snapshot = await asyncio.to_thread(server.snapshot)
    await asyncio.sleep(REACTION_S)
    await asyncio.to_thread(server.restore, snapshot)
    yield


@asynccontextmanager
async def rotated(world: World, name: str) -> AsyncIterator[None]:
    """Change the password; at the end, PostgreSQL's new one is in the service's file."""
    if name == "postgres":
        world.password += "x"
        await world.sql(f"ALTER ROLE service PASSWORD '{world.password}'")
        world.proxies[name].cut()
        yield
        world.write_address()
        return
    client = world.caches[name].client
    client.config_set("requirepass", "another")
    world.proxies[name].cut()
    yield
    client.config_set("requirepass", world.password)


@asynccontextmanager
async def expired(world: World, name: str) -> AsyncIterator[None]:
    """Serve an expired certificate, to connections that are opened from now on."""
    valid = world.proxies[name].tls
    others = {each: proxy.tls for each, proxy in world.proxies.items() if each != name}
    world.certify(is_expired=True)
    for each, context in others.items():
        world.proxies[each].tls = context
    world.proxies[name].cut()
    yield
    world.proxies[name].tls = valid


@asynccontextmanager
async def read_only(world: World, name: str) -> AsyncIterator[None]:
    if name == "postgres":
        await world.sql("ALTER SYSTEM SET default_transaction_read_only = on")
        await world.sql("SELECT pg_reload_conf()")
        yield
        await world.sql("ALTER SYSTEM RESET default_transaction_read_only")
        await world.sql("SELECT pg_reload_conf()")
        return
    client = world.caches[name].client
    # Of a server that is down: the data stays as it is.
    client.replicaof("127.0.0.1", "1")
    yield
    client.replicaof("NO", "ONE")


@asynccontextmanager
async def failover(world: World, name: str) -> AsyncIterator[None]:
    """Kill the primary, lead clients to the standby, and promote it."""
    assert world.standby
    await asyncio.to_thread(world.postgres.kill)
    await asyncio.sleep(REACTION_S)
    world.postgres = world.standby
    world.proxies[name].target = world.standby.port
    await asyncio.sleep(REACTION_S)
    await world.sql("SELECT pg_promote()", database="postgres")
    yield


@asynccontextmanager
async def worker_killed(world: World, name: str) -> AsyncIterator[None]:
    """Kill a process of the service: one of gunicorn's workers, or the worker of jobs with all."""
    process = world.processes["serve" if name == "web" else "worker"]
    if name == "web":
        process.children()[0].kill()
        yield
        return
    for each in [process, *process.children(recursive=True)]:
        each.kill()
    process.wait()
    yield
    world.start("worker", "app", "worker")


@asynccontextmanager
async def both(world: World, *faults: Apply) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for apply in faults:
            await stack.enter_async_context(apply(world))
        yield


def _faults() -> list[Fault]:
    title = {
        "postgres": "PostgreSQL",
        "valkey": "Valkey",
        "broker": "broker",
        "web": "web worker",
        "jobs": "job worker",
    }
    allowed = {
        "postgres": frozenset({"503"}),
        "valkey": frozenset[str](),
        "broker": frozenset[str]() if HAS_OUTBOX else frozenset({"503"}),
        # Requests that it had, and connections that it had accepted.
        "web": frozenset({"ReadError", "RemoteProtocolError", "ConnectError"}),
        "jobs": frozenset[str](),
    }
    every: list[tuple[str, Any, tuple[str, ...], dict[str, Any]]] = [
        ("killed", killed, ("postgres", "valkey", "broker"), {}),
        ("hung", hung, ("postgres", "valkey", "broker"), {"held_s": HUNG_S}),
        ("silent network", silent, ("postgres", "valkey", "broker"), {"held_s": HUNG_S}),
        ("slow", slow, ("postgres", "valkey", "broker"), {}),
        ("reset", reset, ("postgres", "valkey", "broker"), {}),
        ("full", full, ("postgres", "valkey", "broker"), {}),
        ("no more clients", no_clients, ("valkey", "broker"), {}),
        ("restarted empty", emptied, ("valkey", "broker"), {"held_s": 0.0}),
        ("old snapshot", restored, ("valkey", "broker"), {"held_s": 0.0}),
        ("password rotated", rotated, ("postgres", "valkey", "broker"), {}),
        ("read-only", read_only, ("postgres", "valkey", "broker"), {}),
        ("certificate expired", expired, ("postgres", "valkey", "broker"), {"world": "tls"}),
        ("killed", worker_killed, ("web",), {"held_s": 0.0}),
        ("killed", worker_killed, ("jobs",), {}),
        ("failover", failover, ("postgres",), {"held_s": 0.0, "world": "failover"}),
    ]
    found = [
        Fault(
            f"{title[server]} {name}",
            frozenset({server}),
            partial(apply, name=server),
            allowed[server],
            loses_jobs=not {"web": HAS_WORKER, "broker": HAS_OUTBOX}.get(server, True),
            **options,
        )
        for name, apply, servers, options in every
        for server in servers
    ]
    pairs = [
        (("killed", killed, "postgres"), ("killed", killed, "valkey")),
        (("hung", hung, "postgres"), ("killed", killed, "valkey")),
        (("killed", killed, "postgres"), ("killed", killed, "broker")),
        (("hung", hung, "valkey"), ("hung", hung, "broker")),
    ]
    for pair in pairs:
        found.append(
            Fault(
                " and ".join(f"{title[server]} {name}" for name, _, server in pair),
                frozenset(server for _, _, server in pair),
                partial(both_of, pair),
                frozenset[str]().union(*(allowed[server] for _, _, server in pair)),
                held_s=HUNG_S if "hung" in {name for name, _, _ in pair} else HELD_S,
            )
        )
    return found


def both_of(
    pair: tuple[tuple[str, Any, str], ...], world: World
) -> AbstractAsyncContextManager[None]:
    return both(world, *(partial(apply, name=server) for _, apply, server in pair))


FAULTS = {fault.name: fault for fault in _faults()}
