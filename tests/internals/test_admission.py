"""A response is stored when its key repeats, where few keys do."""

from typing import Any
from zlib import crc32

import pytest

from app.core.cache.policy import Policy
from app.core.cache.responses.admission import LAST_MISSES, MAX_KEYS, SAMPLE, Admission

# More misses than it takes until only repeated ones are admitted.
MANY = 4 * LAST_MISSES
# Some are always admitted, by their checksum.
SAMPLED = [f"key {number}" for number in range(100) if not crc32(b"key %d" % number) % SAMPLE]
ORDINARY = [f"key {number}" for number in range(100) if crc32(b"key %d" % number) % SAMPLE]
A, B = ORDINARY[:2]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def admission(clock: Clock) -> Admission:
    return Admission(clock)


class Route:
    def __init__(self, **policy: Any) -> None:
        self.policy = Policy(**({"ttl_s": 10} | policy))


def flood(admission: Admission, of: Any, count: int = MANY) -> list[bool]:
    return [admission.admit(of, f"flood {number}") for number in range(count)]


def test_a_route_of_rare_keys_admits_those_that_repeat(admission: Admission) -> None:
    rare: Any = Route()
    found = flood(admission, rare)
    assert found[0]
    assert found[-100:].count(False) > 50
    assert not admission.admit(rare, A)
    assert admission.admit(rare, A)
    assert admission.admit(rare, "flood 0")
    assert all(admission.admit(rare, name) for name in SAMPLED)


def test_hits_of_other_workers_count(admission: Admission) -> None:
    rare: Any = Route()
    flood(admission, rare)
    for _ in range(2):
        admission.note_shared_hit(rare)
    assert admission.admit(rare, A)


def test_other_routes_admit_all(admission: Admission) -> None:
    flood(admission, Route())
    other: Any = Route()
    assert admission.admit(other, A)


def test_a_route_admits_all_again_when_keys_repeat(admission: Admission) -> None:
    rare: Any = Route()
    flood(admission, rare)
    for _ in range(LAST_MISSES):
        admission.admit(rare, A)
    assert admission.admit(rare, B)


@pytest.mark.parametrize("stale", ["stale_while_revalidate_s", "stale_if_error_s"])
def test_a_key_that_expires_between_requests_is_rare(
    admission: Admission, clock: Clock, stale: str
) -> None:
    rare: Any = Route(**{stale: 5})
    flood(admission, rare)
    admission.admit(rare, A)
    clock.now += 2 * 15 - 0.1
    assert admission.admit(rare, A)
    clock.now += 2 * 15
    assert not admission.admit(rare, A)


def test_keys_of_one_request_for_each_lifetime_are_admitted(
    admission: Admission, clock: Clock
) -> None:
    hot: Any = Route()
    for _ in range(MANY):
        clock.now += 11
        assert admission.admit(hot, "hot")


def test_the_keys_are_bounded_and_age(admission: Admission) -> None:
    rare: Any = Route()
    flood(admission, rare)
    admission.admit(rare, A)
    flood(admission, rare, MAX_KEYS)
    # In the older generation by now.
    assert admission.admit(rare, A)
    for number in range(3 * MAX_KEYS):
        admission.admit(rare, f"more {number}")
    assert len(admission._young) + len(admission._old) <= 2 * MAX_KEYS
    assert not admission.admit(rare, A)
