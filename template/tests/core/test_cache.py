"""Cache-aside: what is kept, under which key, and for how long."""

import asyncio
from uuid import uuid4

import pytest
from fastapi import FastAPI

from app.core.cache import cached
from app.core.database import ReadSession, WriteSession

loaded: list[str] = []


@cached("greeting:{name}", ttl_s=0.3)
async def greet(prefix: str, name: str) -> bytes:
    if not name:
        raise LookupError("nobody to greet")
    loaded.append(name)
    return f"{prefix} {name}".encode()


@pytest.fixture
def name(app: FastAPI) -> str:
    """A name that no other test uses, for the cache is not emptied between tests."""
    loaded.clear()
    return uuid4().hex


async def test_the_second_read_is_a_hit(name: str) -> None:
    first = await greet.lookup("hello", name)
    second = await greet.lookup("hello", name=name)

    assert (first.body, first.hit) == (f"hello {name}".encode(), False)
    assert (second.body, second.hit) == (first.body, True)
    assert (first.status, second.status) == ("app; fwd=miss; stored", "app; hit")
    assert await greet("hello", name) == first.body
    assert loaded == [name]


async def test_only_the_named_parameters_are_the_key(name: str) -> None:
    assert await greet("hello", name) == await greet("goodbye", name)
    assert await greet("hello", f"{name}2") == f"hello {name}2".encode()


async def test_an_invalidated_value_is_loaded_again(name: str) -> None:
    await greet("hello", name)
    await greet.invalidate(name=name)

    assert not (await greet.lookup("hello", name)).hit
    assert loaded == [name, name]


async def test_a_value_ends_with_its_ttl(name: str) -> None:
    await greet("hello", name)
    await asyncio.sleep(0.35)

    assert not (await greet.lookup("hello", name)).hit


async def test_values_are_told_apart_whatever_they_contain(name: str) -> None:
    @cached("pair:{one}:{other}")
    async def pair(one: str, other: str = "default") -> bytes:
        return f"{one} {other}".encode()

    assert await pair(f"{name}:2", "3") == f"{name}:2 3".encode()
    assert await pair(name, "2:3") == f"{name} 2:3".encode()
    assert await pair(name) == f"{name} default".encode()


async def test_what_is_not_committed_is_not_kept(name: str) -> None:
    @cached("in-transaction:{name}")
    async def read(session: ReadSession, name: str) -> bytes:
        return b"uncommitted" if isinstance(session, WriteSession) else b"committed"

    async with WriteSession() as session:
        assert (await read.lookup(session, name)).status == "app; fwd=miss"
    assert await read(ReadSession(), name) == b"committed"


async def test_invalidating_something_else_is_refused() -> None:
    with pytest.raises(TypeError, match="has the fields"):
        await greet.invalidate(id=1)


async def test_an_error_is_not_kept(app: FastAPI) -> None:
    for _ in range(2):
        with pytest.raises(LookupError):
            await greet("hello", "")


def test_a_key_that_names_no_parameter_is_refused() -> None:
    with pytest.raises(TypeError, match="names no parameter"):

        @cached("greeting:{nobody}")
        async def load(name: str) -> bytes:
            return name.encode()
