"""Entries in this process: their limits, and what an invalidation hides."""

from math import inf
from time import monotonic, time

import pytest

from app.core.cache.store import local as module
from app.core.cache.store.entry import Entry, decode, encode
from app.core.cache.store.local import ENTRY_BYTES, LocalCache
from app.core.operations.capacity import MIB
from app.settings import get_settings

BODY = b"v" * 750


@pytest.fixture
def local() -> LocalCache:
    """Room for ten entries with a key of one character and `BODY`."""
    local = LocalCache()
    local.max_bytes = 10 * (ENTRY_BYTES + 1 + len(BODY))
    return local


def put(local: LocalCache, key: str, *tags: str, body: bytes = BODY) -> bool:
    return local.put(key, tags, Entry(body, ttl_s=60), local.invalidations)


def test_what_is_used_least_goes_first(local: LocalCache) -> None:
    for key in "abcdefghij":
        assert put(local, key)
    assert local.get("a", ())
    assert put(local, "k")

    assert [key for key in "abcdefghijk" if local.get(key, ())] == list("acdefghijk")


def test_the_number_of_entries_without_a_body_is_limited_too(local: LocalCache) -> None:
    local.max_bytes = 3 * (ENTRY_BYTES + 1)
    for key in "abcdef":
        put(local, key, body=b"")

    assert [key for key in "abcdef" if local.get(key, ())] == list("def")


def test_what_is_too_large_is_not_kept_and_displaces_nothing(local: LocalCache) -> None:
    put(local, "a")

    assert not put(local, "b", body=BODY * 100)
    assert local.get("a", ())
    assert local.get("b", ()) is None


def test_replacing_and_invalidating_give_their_room_back(local: LocalCache) -> None:
    for _ in range(100):
        put(local, "a", "tag")
    local.invalidate(["tag"])
    assert local.get("a", ["tag"]) is None
    for key in "abcdefghij":
        put(local, key)

    assert all(local.get(key, ()) for key in "abcdefghij")


def test_an_invalidation_hides_what_began_before_it(local: LocalCache) -> None:
    began = local.invalidations
    local.invalidate(["book:1", "books"])

    for tags in (["book:1"], ["shelf", "books"]):
        assert not local.put("late", tags, Entry(b"old", ttl_s=60), began)
        assert local.put("new", tags, Entry(b"new", ttl_s=60), local.invalidations)
    assert local.put("other", ["book:2"], Entry(b"other", ttl_s=60), began)
    assert local.get("other", ["book:2"])


def test_forgotten_invalidations_hide_all_that_is_as_old(
    local: LocalCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_INVALIDATIONS", 2)
    put(local, "old", "unconcerned")
    began = local.invalidations
    for number in range(3):
        local.invalidate([f"tag {number}"])

    assert local.get("old", ["unconcerned"]) is None
    assert not local.put("late", ["tag 0"], Entry(b"", ttl_s=60), began)
    assert put(local, "new", "unconcerned")


def test_clearing_hides_everything_also_what_is_on_its_way(local: LocalCache) -> None:
    put(local, "a")
    began = local.invalidations
    local.clear()

    assert local.get("a", ()) is None
    assert not local.put("late", (), Entry(b"", ttl_s=60), began)


def test_what_may_be_out_of_date_is_neither_shown_nor_kept(local: LocalCache) -> None:
    put(local, "a")
    local.trusted_until = monotonic()

    assert local.get("a", ()) is None
    assert not put(local, "b")
    local.trusted_until = inf
    assert local.get("a", ())


def test_an_entry_ages(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = Entry(b"", ttl_s=10, stale_while_revalidate_s=5, stale_if_error_s=20, loaded_at=1000)

    stale, spare = "stale-while-revalidate", "stale-if-error"
    ages = {990: "fresh", 1009: "fresh", 1010: stale, 1014: stale, 1015: spare, 1029: spare}
    for now, freshness in {**ages, 1030: "expired"}.items():
        monkeypatch.setattr("app.core.cache.store.entry.time", lambda now=now: now)
        assert (entry.freshness().value, entry.age_s()) == (freshness, max(0, now - 1000))
    assert entry.lifetime_s == 30


def test_a_dead_entry_is_gone(local: LocalCache) -> None:
    local.put("a", (), Entry(b"", ttl_s=1, loaded_at=time() - 2), local.invalidations)

    assert local.get("a", ()) is None


@pytest.mark.parametrize("meta", [b"", b"meta"])
def test_an_entry_survives_the_wire(meta: bytes) -> None:
    entry = Entry(
        b"body",
        ttl_s=1.5,
        meta=meta,
        stale_while_revalidate_s=2.5,
        stale_if_error_s=3.5,
        loaded_at=1000.25,
    )
    back = decode(encode(entry, b"seal"), b"seal")

    assert back
    assert decode(encode(entry, b"seal"), b"other") is None
    assert decode(encode(entry, b"seal"), b"sea") is None
    assert decode(encode(entry, b"seal"), None)
    for name in (
        "body",
        "meta",
        "loaded_at",
        "ttl_s",
        "stale_while_revalidate_s",
        "stale_if_error_s",
    ):
        assert getattr(back, name) == getattr(entry, name)


@pytest.mark.parametrize("length", range(len(encode(Entry(b"", ttl_s=1, meta=b"meta")))))
def test_half_an_entry_is_none(length: int) -> None:
    assert decode(encode(Entry(b"", ttl_s=1, meta=b"meta"))[:length]) is None


def test_another_version_is_none() -> None:
    assert decode(b"\xff" + encode(Entry(b"", ttl_s=1))[1:]) is None


def test_the_memory_of_each_worker_counts_in_the_capacity_plan(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.core.settings.detect_memory", lambda: 1024 * MIB)
    settings = get_settings().model_copy(
        update={"cpu_cores": 8, "workers_per_core": 1.0, "web_concurrency": 0}
    )

    plans = [
        settings.model_copy(update={"cache_max_bytes": size}).plan() for size in (1024, 128 * MIB)
    ]

    assert [plan.workers for plan in plans] == [8, 4]
    assert plans[1].memory.startswith("5 processes x 96 MiB + 4 caches x 128 MiB = 992 MiB")
