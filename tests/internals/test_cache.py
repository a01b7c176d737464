"""`cached`: what is kept of a function, under which key and tags."""

from time import time
from typing import Any
from uuid import UUID, uuid4

import pytest
from fastapi import FastAPI

from app.core.cache import cache, cached, invalidate_after_commit
from app.core.database import ReadSession, WriteSession
from app.core.http.problems import NotFound

loaded: list[str] = []


@cached("greeting:{name}", ttl_s=60, ignore=("prefix",))
async def greet(prefix: str, name: str) -> bytes:
    if not name:
        raise LookupError("nobody to greet")
    loaded.append(name)
    return f"{prefix} {name}".encode()


async def outcome(name: str) -> str:
    before = len(loaded)
    await greet("hello", name)
    return "hit" if len(loaded) == before else "miss"


@pytest.fixture
def name(app: FastAPI) -> str:
    """A name that no other test uses, for the cache is not emptied between tests."""
    loaded.clear()
    return uuid4().hex


async def test_the_second_read_is_a_hit(name: str) -> None:
    assert await greet("hello", name) == f"hello {name}".encode()
    assert await greet("hello", name=name) == f"hello {name}".encode()
    assert loaded == [name]


async def test_only_the_named_parameters_are_the_key(name: str) -> None:
    assert await greet("hello", name) == await greet("goodbye", name)
    assert await greet("hello", f"{name}2") == f"hello {name}2".encode()


async def test_the_key_is_a_tag_where_no_other_is_given(name: str) -> None:
    await greet("hello", name)
    await cache.invalidate(f"greeting:{name}")

    assert await outcome(name) == "miss"
    assert loaded == [name, name]


async def test_a_value_ends_with_its_ttl(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await greet("hello", name)
    monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)

    assert await outcome(name) == "miss"


async def test_values_are_told_apart_whatever_they_contain(name: str) -> None:
    @cached("pair:{one}:{other}")
    async def pair(one: str, other: str = "default") -> bytes:
        return f"{one} {other}".encode()

    assert await pair(f"{name}:2", "3") == f"{name}:2 3".encode()
    assert await pair(name, "2:3") == f"{name} 2:3".encode()
    assert await pair(name) == f"{name} default".encode()


async def test_one_tag_is_on_many_values(app: FastAPI) -> None:
    @cached("book:{book_id}:{part}", tags=("book:{book_id}", "books"))
    async def read(book_id: UUID, part: int) -> bytes:
        return uuid4().bytes

    one, other = uuid4(), uuid4()

    async def values() -> list[bytes]:
        return [await read(book_id, part) for book_id, part in [(one, 1), (one, 2), (other, 1)]]

    first = await values()
    assert await values() == first
    await cache.invalidate(f"book:{one}")
    second = await values()
    assert [new == old for new, old in zip(second, first, strict=True)] == [False, False, True]
    await cache.invalidate("books")
    assert not set(await values()) & set(second)


async def test_what_is_not_committed_is_not_kept(name: str) -> None:
    @cached("in-transaction:{name}")
    async def read(session: ReadSession, name: str) -> bytes:
        return b"uncommitted" if isinstance(session, WriteSession) else b"committed"

    async with WriteSession() as session:
        assert await read(session, name) == b"uncommitted"
    assert await read(ReadSession(), name) == b"committed"


async def test_a_commit_invalidates_and_a_rollback_does_not(name: str) -> None:
    await greet("hello", name)
    with pytest.raises(ZeroDivisionError):
        async with WriteSession() as session:
            await session.flush()
            invalidate_after_commit(session, "greeting:{name}", name=name)
            raise ZeroDivisionError
    assert await outcome(name) == "hit"

    async with WriteSession() as session:
        await session.flush()
        invalidate_after_commit(session, "greeting:{name}", name=name)
        assert await outcome(name) == "hit"
    assert await outcome(name) == "miss"


async def test_what_is_not_there_is_remembered_if_that_is_asked_for(name: str) -> None:
    there = False

    @cached("maybe:{name}", negative_ttl_s=60)
    async def find(name: str) -> bytes:
        loaded.append(name)
        if not there:
            raise NotFound(f"There is no {name}.")
        return b"here"

    for _ in range(3):
        with pytest.raises(NotFound, match=f"There is no {name}"):
            await find(name)
    assert loaded == [name]
    there = True
    await cache.invalidate(f"maybe:{name}")
    assert await find(name) == b"here"


async def test_an_error_is_not_kept(app: FastAPI) -> None:
    for _ in range(2):
        with pytest.raises(LookupError):
            await greet("hello", "")


async def test_two_functions_may_have_the_same_key(name: str) -> None:
    @cached("greeting:{name}")
    async def other(name: str) -> bytes:
        return b"other"

    assert await greet("hello", name) == f"hello {name}".encode()
    assert await other(name) == b"other"


async def test_values_of_tags_are_written_in_one_way(name: str) -> None:
    address = f"{name}+x@example.com"
    await greet("hello", address)
    async with WriteSession() as session:
        await session.flush()
        invalidate_after_commit(session, "greeting:{name}", name=address)
    assert await outcome(address) == "miss"


async def test_a_tag_that_would_reach_nothing_is_refused(app: FastAPI) -> None:
    async with WriteSession() as session:
        with pytest.raises(TypeError, match="the value of 'name' is missing"):
            invalidate_after_commit(session, "greeting:{name}")
        with pytest.raises(ValueError, match="in braces"):
            invalidate_after_commit(session, "greeting:ada@example.com")
        with pytest.raises(TypeError, match="name the tags"):
            invalidate_after_commit(session)


def test_a_parameter_that_is_not_in_the_key_is_refused() -> None:
    with pytest.raises(TypeError, match="unit may shape the result"):

        @cached("length:{number}")
        async def load(session: ReadSession, number: int, unit: str) -> bytes:
            return b""


async def test_only_coroutines_that_return_bytes_are_cached(app: FastAPI) -> None:
    def plain() -> bytes:
        return b""

    async def text(session: ReadSession) -> str:
        return ""

    decorator: Any = cached("text")
    with pytest.raises(TypeError, match="plain is no async function"):
        decorator(plain)
    for session in (ReadSession(), WriteSession()):
        with pytest.raises(TypeError, match="returned str, expected bytes"):
            await decorator(text)(session)


@pytest.mark.parametrize(("key", "tags"), [("a greeting", ()), ("x", ("a,b",))])
def test_a_key_or_tag_that_cannot_be_written_is_refused(key: str, tags: tuple[str, ...]) -> None:
    async def load() -> bytes:
        return b""

    with pytest.raises(ValueError, match="in braces"):
        cached(key, tags=tags)(load)


@pytest.mark.parametrize(("key", "tags"), [("greeting:{nobody}", ()), ("x", ("tag:{nobody}",))])
def test_a_key_or_tag_that_names_no_parameter_is_refused(key: str, tags: tuple[str, ...]) -> None:
    with pytest.raises(TypeError, match=r"names no parameter of .*load: nobody"):

        @cached(key, tags=tags, ignore=("name",))
        async def load(name: str) -> bytes:
            return name.encode()
