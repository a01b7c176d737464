"""Requests: the same ones in every run, in the shares that a mix declares, popular users more often."""

import json
from collections import Counter
from uuid import UUID

import pytest

from benchmarks.harness.scenarios import ARENA, CREATED_ITEMS, CRUD_LENGTH, MIXES, SCENARIOS, Data, Request, stream

DATA = Data([UUID(int=number) for number in range(5_000)], "/posts?limit=20&offset=1000")


@pytest.mark.parametrize("name", SCENARIOS)
def test_streams_are_the_same_in_every_run_and_named_by_the_data(name: str) -> None:
    requests = stream(SCENARIOS[name], DATA, length=200)

    assert requests == stream(SCENARIOS[name], DATA, length=200)
    assert len(requests) == 200


def test_a_mix_has_its_shares() -> None:
    requests = stream(MIXES["read-mostly"], DATA, length=10_000)

    methods = Counter(request.method for request in requests)
    assert methods["PATCH"] == pytest.approx(1_000, rel=0.15)
    assert sum(request.path == DATA.deep_page for request in requests) == pytest.approx(500, rel=0.2)


def test_popular_users_are_few_and_the_first_is_asked_for_most() -> None:
    mix = MIXES["read-mostly-cached"]
    users = Counter(request.path for request in stream(mix, DATA, length=10_000) if request.path.startswith("/users/"))

    assert set(users) <= {f"/users/{user}" for user in DATA.users[:1_000]}
    assert users.most_common(1)[0][0] == f"/users/{DATA.users[0]}"


def test_any_user_is_rarely_asked_for_twice() -> None:
    users = Counter(request.path for request in stream(SCENARIOS["user"], DATA, length=5_000))

    assert len(users) > 2_500
    assert max(users.values()) < 10


def test_crud_has_the_shares_and_ids_of_its_specification() -> None:
    requests = stream(SCENARIOS["crud"], DATA)

    assert len(requests) == CRUD_LENGTH
    methods = Counter(request.method for request in requests)
    assert methods["PUT"] == pytest.approx(0.15 * CRUD_LENGTH, rel=0.1)
    assert methods["POST"] == pytest.approx(0.05 * CRUD_LENGTH, rel=0.1)
    reads = [int(request.path[12:]) for request in requests if request.path.startswith("/crud/items/")]
    assert len(reads) == pytest.approx(0.9 * CRUD_LENGTH, rel=0.02)
    assert 1 <= min(reads) < max(reads) <= 50_000
    created = {json.loads(request.body)["id"] for request in requests if request.method == "POST"}
    assert created <= set(CREATED_ITEMS)


@pytest.mark.parametrize(
    ("name", "shares"),
    [
        (
            "api-4",
            {"/baseline11?a=13&b=42": 3 / 8, "/json/50?m=1": 3 / 8, "/async-db?min=10&max=50&limit=50": 2 / 8},
        ),
        ("async-db", {f"/async-db?min=10&max=50&limit={limit}": 1 / 5 for limit in (5, 10, 20, 35, 50)}),
        (
            "json",
            {
                f"/json/{count}?m={times}": 1 / 7
                for count, times in ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))
            },
        ),
    ],
)
def test_the_profiles_of_httparena_ask_for_what_their_specifications_say(name: str, shares: dict[str, float]) -> None:
    paths = Counter(request.path for request in stream(ARENA[name], DATA, length=10_000))

    assert paths == pytest.approx({path: share * 10_000 for path, share in shares.items()}, rel=0.1)


def test_a_request_as_it_is_sent() -> None:
    assert Request("GET", "/livez").encoded() == (
        b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: application/json\r\n\r\n"
    )
    encoded = Request("PATCH", "/users/1", b'{"name": "A"}').encoded()
    assert encoded.endswith(b'Content-Length: 13\r\n\r\n{"name": "A"}')
