"""`python -m app cache`: in a process of its own, about the cache that the workers share."""

import re
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial

import pytest
from anyio.to_thread import run_sync
from fastapi import FastAPI
from httpx2 import ASGITransport, AsyncClient
from redis import Redis

from app.core.cache import cached, public
from app.core.cache.commands import USAGE
from app.core.cache.responses.middleware import ResponseCache
from app.core.cache.store import Cache
from app.core.cache.store.entry import Entry
from app.settings import get_settings
from dev.processes import free_port
from tests.internals.commands import run
from tests.internals.valkey_server import own_server, trusted

SERVER = "http://127.0.0.1:8000"
KEY, TAGS = "function:commands:1", ("commands:1",)


@pytest.fixture
async def cache() -> AsyncIterator[Cache]:
    cache = Cache()
    await cache.open(get_settings())
    await cache.invalidate("*")
    await trusted(cache)
    yield cache
    await cache.close()


async def total_json(order_id: int) -> bytes:
    return f"the total of {order_id}".encode()


# As it would be named in a service with orders.
total_json.__module__, total_json.__qualname__ = "app.orders.service", "total_json"


async def load() -> Entry:
    return Entry(b'{"name": "x"}', ttl_s=60, stale_if_error_s=30)


async def command(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code, and all that it says."""
    process = await run_sync(lambda: run("cache", *arguments, **variables))
    return process.returncode, process.stdout + process.stderr


async def test_an_entry_is_shown(cache: Cache) -> None:
    await cache.read(KEY, TAGS, load)

    code, output = await command("show", KEY)

    assert code == 0
    assert output.startswith("loaded ")
    assert '{"name": "x"}' in output
    assert await command("show", "nothing") == (1, "cache: no entry under 'nothing'.\n")


async def test_the_help_shows_the_forms_of_keys(cache: Cache) -> None:
    app = FastAPI()

    @app.get("/orders/{order_id}")
    @public(ttl_s=60)
    async def read_order(order_id: int, page: int = 1) -> str:
        return f"page {page} of {order_id}"

    app.add_middleware(ResponseCache, store=cache)
    async with AsyncClient(transport=ASGITransport(app), base_url=SERVER) as client:
        await client.get("/orders/07?page=02")
    await cached("order-total:{order_id}", store=cache)(total_json)(order_id=7)

    _, text = await command("--help")
    keys = re.findall(r"^ +show '(.+)'$", text, re.MULTILINE)
    shown = [await command("show", key) for key in keys]

    assert [code for code, _ in shown] == [0, 0]
    assert '"page 2 of 7"' in shown[0][1]
    assert "the total of 7" in shown[1][1]


async def test_what_is_invalidated_is_loaded_again(cache: Cache) -> None:
    await cache.read(KEY, TAGS, load)
    assert (await cache.shared.find(KEY, TAGS)).entry is not None

    said = f"invalidated for all workers: another:1, {TAGS[0]}\n"
    assert await command("invalidate", "another:1", *TAGS) == (0, said)

    assert (await cache.shared.find(KEY, TAGS)).entry is None


def test_a_full_server_with_the_data_of_another_is_invalidated() -> None:
    with own_server() as url, closing(Redis.from_url(url)) as client:
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1")
        process = run("cache", "invalidate", "x", CACHE_URL=url)

    assert process.stdout == "invalidated for all workers: x\n", process.stderr


async def test_check_says_that_releases_share_what_is_kept() -> None:
    for version, is_said in (("", True), ("abc123", False)):
        process = await run_sync(partial(run, "check", CACHE_VERSION=version))
        assert ("note: CACHE_VERSION is not set" in process.stdout) == is_said


@pytest.mark.parametrize("arguments", [("show",), ("burn", "x")])
async def test_what_is_not_understood_is_refused(arguments: tuple[str, ...]) -> None:
    assert await command(*arguments) == (1, f"{USAGE}\n")


async def test_a_server_that_is_away_is_an_error() -> None:
    port = free_port()

    code, output = await command("invalidate", "x", CACHE_URL=f"redis://127.0.0.1:{port}/0")

    assert code == 1
    assert "cache: unreachable.\n" in output
