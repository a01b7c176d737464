"""Reads through the cache: who loads, who waits, and that nobody sees what a write has replaced."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from functools import partial
from time import monotonic, time
from uuid import uuid4

import pytest

from app.core.cache import cache
from app.core.cache.store import Cache, Load, NotShareable, Outcome
from app.core.cache.store.entry import Entry
from app.core.http.problems import Unavailable
from app.settings import get_settings


@pytest.fixture
async def store() -> AsyncIterator[Cache]:
    """A cache of the service's kind, for one test."""
    store = type(cache)()
    await store.open(get_settings())
    async with asyncio.timeout(30):
        while monotonic() >= store.local.trusted_until:
            await asyncio.sleep(0.01)
    yield store
    await store.close()


@pytest.fixture
def key() -> str:
    """A key that no other test uses, and its tag: a server's cache is not emptied between tests."""
    return uuid4().hex


class Loading:
    """Counts how often it is called; each call takes a moment and loads the next number."""

    def __init__(
        self, *, ttl_s: float = 60, stale_while_revalidate_s: float = 0, stale_if_error_s: float = 0
    ) -> None:
        self.calls = 0
        self.error: Exception | None = None
        self.may_end = asyncio.Event()
        self.may_end.set()
        self._entry = partial(
            Entry,
            ttl_s=ttl_s,
            stale_while_revalidate_s=stale_while_revalidate_s,
            stale_if_error_s=stale_if_error_s,
        )

    async def __call__(self) -> Entry:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0.02)
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        return self._entry(str(number).encode())


async def read(store: Cache, key: str, load: Load) -> tuple[bytes, str]:
    found = await store.read(key, (key,), load)
    return found.entry.body, found.outcome.value


async def test_who_comes_while_it_is_loaded_waits_for_it(store: Cache, key: str) -> None:
    load = Loading()
    found = await asyncio.gather(*(read(store, key, load) for _ in range(50)))

    assert found == [(b"1", "miss")] + [(b"1", "collapsed")] * 49
    assert await read(store, key, load) == (b"1", "hit")
    assert load.calls == 1
    peeked = store.local.get(key, (key,))
    assert peeked is not None
    assert peeked.body == b"1"


async def test_who_gives_up_does_not_take_the_others_with_them(store: Cache, key: str) -> None:
    load = Loading()
    first = asyncio.create_task(read(store, key, load))
    await asyncio.sleep(0)
    second = asyncio.create_task(read(store, key, load))
    await asyncio.sleep(0.01)
    first.cancel()

    assert await second == (b"1", "collapsed")
    assert load.calls == 1


async def test_an_error_is_everybodys_and_not_kept(store: Cache, key: str) -> None:
    load = Loading()
    load.error = LookupError("none")
    results = await asyncio.gather(
        *(read(store, key, load) for _ in range(3)), return_exceptions=True
    )

    assert results == [load.error] * 3
    load.error = None
    assert await read(store, key, load) == (b"2", "miss")


async def test_what_is_for_its_own_caller_is_not_shared(store: Cache, key: str) -> None:
    calls = 0

    async def load() -> Entry:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.01)
        raise NotShareable

    results = await asyncio.gather(
        *(store.read(key, (), load) for _ in range(3)), return_exceptions=True
    )

    assert [type(result) for result in results] == [NotShareable] * 3
    assert calls == 3


async def test_what_is_not_to_be_kept_is_shared_and_forgotten(store: Cache, key: str) -> None:
    load = Loading(ttl_s=0, stale_while_revalidate_s=60)
    found = await asyncio.gather(*(store.read(key, (key,), load) for _ in range(3)))

    assert [(one.entry.body, one.is_stored) for one in found] == [(b"1", False)] * 3
    assert await read(store, key, load) == (b"2", "miss")


async def test_stale_values_are_shown_while_one_refresh_runs(
    store: Cache, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loading(ttl_s=60, stale_while_revalidate_s=60)
    await read(store, key, load)
    load.may_end.clear()

    with monkeypatch.context() as later:
        later.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
        assert [await read(store, key, load) for _ in range(10)] == [(b"1", "stale")] * 10
        async with asyncio.timeout(30):
            while load.calls < 2:
                await asyncio.sleep(0.01)
    load.may_end.set()
    async with asyncio.timeout(30):
        while await read(store, key, load) != (b"2", "hit"):
            await asyncio.sleep(0.01)
    assert load.calls == 2


async def test_a_refresh_that_fails_is_tried_again(store: Cache, key: str) -> None:
    load = Loading(ttl_s=0.01, stale_while_revalidate_s=60)
    await read(store, key, load)
    load.error = Unavailable("down")
    async with asyncio.timeout(30):
        while load.calls < 3:
            await asyncio.sleep(0.02)
            assert await read(store, key, load) == (b"1", "stale")


async def test_a_value_outlives_the_database_for_as_long_as_declared(
    store: Cache, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = Loading(ttl_s=60, stale_if_error_s=60)
    await read(store, key, load)
    monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
    load.error = Unavailable("down")
    assert await read(store, key, load) == (b"1", "error")
    load.error = LookupError("none")
    with pytest.raises(LookupError):
        await read(store, key, load)
    load.error = Unavailable("down")
    monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 121)
    with pytest.raises(Unavailable):
        await read(store, key, load)


@pytest.mark.parametrize("is_local", [True, False])
async def test_a_hung_load_shows_the_stale_entry_after_a_bound(
    store: Cache, key: str, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    load = Loading(stale_if_error_s=60)
    await read(store, key, load)
    if not is_local and hasattr(store, "shared"):
        store.local.clear()
    monkeypatch.setattr("app.core.cache.store.entry.time", lambda: time() + 61)
    monkeypatch.setattr(sys.modules[Cache.__module__], "STALE_AFTER_S", 0.05)
    may_end = asyncio.Event()

    async def hang() -> Entry:
        await may_end.wait()
        return await load()

    found = await asyncio.gather(*(store.read(key, (key,), hang) for _ in range(3)))
    assert {(each.entry.body, each.outcome) for each in found} == {(b"1", "error")}
    # One load goes on for all of them; an entry that a write has replaced is not shown.
    assert len(store._loading) == 1
    await store.invalidate(key)
    waiting = asyncio.create_task(store.read(key, (key,), hang))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    may_end.set()
    assert (await waiting).outcome == "miss"


async def test_an_invalidated_value_is_not_shown_even_if_nothing_can_be_loaded(
    store: Cache, key: str
) -> None:
    load = Loading(ttl_s=0.01, stale_while_revalidate_s=60, stale_if_error_s=60)
    await read(store, key, load)
    await store.invalidate(key)
    load.error = Unavailable("down")

    with pytest.raises(Unavailable):
        await read(store, key, load)


async def test_a_reader_who_began_before_a_write_leaves_nothing_behind(
    store: Cache, key: str
) -> None:
    load = Loading()
    slow = asyncio.create_task(read(store, key, load))
    await asyncio.sleep(0.01)
    await store.invalidate(key)

    # Whoever comes after the write does not wait for a value from before it.
    assert await read(store, key, load) == (b"2", "miss")
    assert await slow == (b"1", "miss")
    assert await read(store, key, load) == (b"2", "hit")


async def test_clearing_is_an_invalidation_of_everything(store: Cache, key: str) -> None:
    load = Loading()
    await read(store, key, load)
    await store.invalidate("*")

    assert await read(store, key, load) == (b"2", "miss")


async def test_values_that_were_loaded_together_end_apart(store: Cache, key: str) -> None:
    load = Loading(ttl_s=100)
    found = [await store.read(f"{key}{number}", (), load) for number in range(20)]
    ttls = [one.entry.ttl_s for one in found]

    assert all(90 <= ttl_s <= 100 for ttl_s in ttls)
    assert len(set(ttls)) == 20


async def test_outcomes_are_counted(store: Cache, key: str) -> None:
    load = Loading()
    for _ in range(3):
        await read(store, key, load)

    assert store.counts["load", "miss"] == 1
    assert store.counts["local", "hit"] == 2


@pytest.mark.parametrize("order", range(20))
async def test_no_interleaving_shows_a_value_older_than_the_last_write(
    store: Cache, key: str, order: int
) -> None:
    """Readers and writers in random order, on a row whose versions are numbers."""
    rng = random.Random(order)  # noqa: S311 - not for secrets
    committed = 0
    # What a reader that begins now must see at least: writes that have been invalidated.
    visible = 0

    async def pause() -> None:
        await asyncio.sleep(rng.choice([0, 0, 0.001, 0.003]))

    async def load() -> Entry:
        await pause()
        value = committed
        await pause()
        return Entry(str(value).encode(), ttl_s=rng.choice([0.002, 60]))

    async def reader() -> None:
        for _ in range(15):
            await pause()
            expected = visible
            found = await store.read(key, (key, "rows"), load)
            assert int(found.entry.body) >= expected, found.outcome

    async def writer() -> None:
        nonlocal committed, visible
        for _ in range(8):
            await pause()
            if rng.random() < 0.3:
                continue  # rolled back: nothing was written, and nothing is invalidated
            committed += 1
            mine = committed
            await pause()
            if rng.random() < 0.2:
                # An eviction in this process, at any time.
                store.local.clear()
            await store.invalidate(key)
            visible = max(visible, mine)

    async with asyncio.timeout(60):
        await asyncio.gather(*(reader() for _ in range(5)), writer(), writer())
    assert int((await store.read(key, (key, "rows"), load)).entry.body) == committed


def test_outcomes_have_the_words_of_their_header() -> None:
    assert [outcome.value for outcome in Outcome] == [
        "hit",
        "stale",
        "miss",
        "collapsed",
        "error",
    ]
