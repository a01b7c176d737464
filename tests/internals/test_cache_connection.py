"""The connection of a worker to Valkey: one for all, in order, and never waited for too long."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError, ResponseError, TimeoutError
from sqlalchemy import make_url

from app.core.cache.store.connection import DRIVER, Connection, Refusal, connect
from tests.internals.fault_proxy import FaultProxy, fault_proxy
from tests.internals.valkey_server import own_server

LIMIT_S = 0.2


class Heard:
    """What a connection tells."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []
        self.losses = 0

    def lost(self) -> None:
        self.losses += 1


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with own_server() as url:
        yield url


@pytest.fixture
async def client(server: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(server, driver_info=DRIVER)
    async with aclosing(client):
        await client.flushall()
        yield client


@pytest.fixture
def heard() -> Heard:
    return Heard()


@asynccontextmanager
async def opened(url: str, heard: Heard) -> AsyncIterator[Connection]:
    connection = Connection(
        await connect(url, timeout_s=LIMIT_S),
        timeout_s=LIMIT_S,
        on_message=heard.messages.append,
        on_end=heard.lost,
    )
    connection.subscribe("news")
    try:
        yield connection
    finally:
        connection.end(ConnectionError("closed"))
        await connection.ended


@pytest.fixture
async def connection(server: str, heard: Heard) -> AsyncIterator[Connection]:
    async with opened(server, heard) as connection:
        yield connection


@pytest.fixture
async def proxy(server: str) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(make_url(server).port or 0) as proxy:
        yield proxy


@pytest.fixture
async def behind(server: str, proxy: FaultProxy, heard: Heard) -> AsyncIterator[Connection]:
    url = make_url(server).set(port=proxy.port).render_as_string(hide_password=False)
    async with opened(url, heard) as connection:
        yield connection


async def connections(client: Redis) -> int:
    return len([each for each in await client.client_list() if each["sub"] != "0"])


async def test_all_share_one_connection_and_each_gets_its_own_replies(
    connection: Connection, client: Redis
) -> None:
    async def ask(number: int) -> list[object]:
        return await connection.execute(("SET", f"key {number}", number), ("GET", f"key {number}"))

    replies = await asyncio.gather(*(ask(number) for number in range(500)))

    assert replies == [[b"OK", str(number).encode()] for number in range(500)]
    assert await connections(client) == 1


async def test_commands_of_one_turn_are_written_together(
    behind: Connection, proxy: FaultProxy
) -> None:
    await behind.execute(("PING",))
    before = proxy.received
    await asyncio.gather(*(behind.execute(("PING",)) for _ in range(100)))

    assert proxy.received == before + 1


async def test_a_command_that_finds_no_memory_fails_alone(
    connection: Connection, client: Redis, heard: Heard
) -> None:
    await connection.execute(("SET", "text", "x"))
    await client.config_set("maxmemory-policy", "noeviction")
    await client.config_set("maxmemory", "1")
    try:
        asked = [
            connection.execute(("GET", "text")),
            connection.execute(("SET", "text", "y"), ("PING",)),
            connection.execute(("GET", "text")),
        ]
        replies = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await client.config_set("maxmemory", "0")

    assert replies[::2] == [[b"x"], [b"x"]]
    assert isinstance(replies[1], ResponseError)
    assert heard.losses == 0


async def test_every_other_refusal_ends_the_connection(
    connection: Connection, heard: Heard
) -> None:
    await connection.execute(("SET", "text", "x"))
    asked = [connection.execute(("INCR", "text"), ("PING",)), connection.execute(("GET", "text"))]
    replies = await asyncio.gather(*asked, return_exceptions=True)

    assert [type(reply) for reply in replies] == [Refusal, Refusal]
    assert heard.losses == 1
    with pytest.raises(Refusal):
        connection.execute(("GET", "text"))


async def test_who_gives_up_leaves_the_others_in_step(connection: Connection) -> None:
    await connection.execute(("SET", "number", 0))
    asked = [connection.execute(("INCR", "number")) for _ in range(20)]
    for task in asked[::2]:
        task.cancel()
    replies = await asyncio.gather(*asked, return_exceptions=True)

    assert replies[1::2] == [[number] for number in range(2, 21, 2)]
    assert {type(reply) for reply in replies[::2]} == {asyncio.CancelledError}


async def test_a_message_from_before_a_reply_is_heard_before_it(
    connection: Connection, client: Redis, heard: Heard
) -> None:
    await connection.execute(("PING",))
    for number in range(100):
        await client.publish("news", str(number))
        await connection.execute(("PING",))
        assert heard.messages[-1:] == [str(number).encode()]
    await connection.execute(("MULTI",), ("PUBLISH", "news", "own"), ("EXEC",))
    assert heard.messages[-1] == b"own"


async def test_large_values_come_whole(connection: Connection) -> None:
    value = bytes(range(256)) * 8192
    assert await connection.execute(("SET", "large", value), ("GET", "large")) == [b"OK", value]


async def test_a_late_reply_ends_the_connection_for_all(
    behind: Connection, proxy: FaultProxy, heard: Heard
) -> None:
    await behind.execute(("SET", "key", "old"))
    proxy.silent = True
    started = time.monotonic()
    asked = [behind.execute(("GET", "key")) for _ in range(10)]
    replies = await asyncio.gather(*asked, return_exceptions=True)

    # The event loop counts milliseconds.
    assert time.monotonic() - started > LIMIT_S - 0.01
    assert {type(reply) for reply in replies} == {TimeoutError}
    assert len({id(reply) for reply in replies}) == 10
    assert heard.losses == 1


async def test_a_process_that_is_late_itself_does_not_blame_the_server(
    connection: Connection, heard: Heard
) -> None:
    await connection.execute(("PING",))
    for turns in (0, 0, 1, 1):
        asked = connection.execute(("PING",))
        # Without a turn of the loop it is not yet written.
        for _ in range(turns):
            await asyncio.sleep(0)
        busy_until = time.monotonic() + LIMIT_S + 0.05
        while time.monotonic() < busy_until:
            pass
        assert await asked == [b"PONG"]
    assert heard.losses == 0


async def test_a_lost_connection_fails_those_that_wait(
    behind: Connection, proxy: FaultProxy, heard: Heard
) -> None:
    await behind.execute(("PING",))
    proxy.silent = True
    asked = behind.execute(("PING",))
    await asyncio.sleep(0.02)
    proxy.cut()

    with pytest.raises(ConnectionError, match="connection lost"):
        await asked
    assert heard.losses == 1


async def test_closing_fails_those_that_wait(behind: Connection, proxy: FaultProxy) -> None:
    await behind.execute(("PING",))
    proxy.silent = True
    asked = behind.execute(("PING",))
    behind.end(ConnectionError("closed"))

    with pytest.raises(ConnectionError):
        await asked


def url_of(server: str, username: str, secret: str) -> str:
    url = make_url(server).set(username=username, password=secret)
    return url.render_as_string(hide_password=False)


async def test_a_password_is_sent_and_a_wrong_one_named(
    server: str, connection: Connection, heard: Heard
) -> None:
    await connection.execute(("ACL", "SETUSER", "reader", "on", ">right", "~*", "&*", "+@all"))
    async with opened(url_of(server, "reader", "right"), heard) as reader:
        assert await reader.execute(("ACL", "WHOAMI")) == [b"reader"]
    with pytest.raises(Refusal, match="username-password"):
        await connect(url_of(server, "reader", "wrong"), timeout_s=LIMIT_S)


async def test_who_may_not_listen_gets_no_replies_either(
    server: str, connection: Connection, heard: Heard
) -> None:
    await connection.execute(("ACL", "SETUSER", "deaf", "on", ">right", "~*", "+@all"))
    async with opened(url_of(server, "deaf", "right"), heard) as deaf:
        with pytest.raises(Refusal, match="NOPERM"):
            await deaf.execute(("GET", "key"))
