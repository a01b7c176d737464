"""Who is compared in which scenario, and that a way which answers or writes something else ends the run."""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from benchmarks.harness.answers import AnswersDiffer
from benchmarks.harness.runner import check
from benchmarks.harness.scenarios import ENDPOINTS, SCENARIOS, Data
from benchmarks.harness.services import SERVICES, Running
from benchmarks.harness.ways import ARENA, CACHES, COMPARISONS, CRUD, LANES, LIMIT, Comparison
from benchmarks.tests.handlers import served_by

USERS = [UUID(int=number) for number in range(1, 50)]


def test_lanes_are_compared_in_endpoints_with_one_of_the_orm() -> None:
    assert set(LANES.of) <= set(ENDPOINTS)
    assert all("orm" in names and LIMIT in names for names in LANES.of.values())


def test_caches_are_compared_with_no_cache_and_only_hits_with_the_limit() -> None:
    assert all("uncached" in names for names in CACHES.of.values())
    assert [LIMIT in names for names in CACHES.of.values()] == ["miss" not in names for names in CACHES.of.values()]


@pytest.mark.parametrize("comparison", COMPARISONS.values())
def test_every_way_is_compared_in_scenarios_that_there_are(comparison: Comparison) -> None:
    assert set(comparison.of) <= set(SCENARIOS)
    assert set().union(*comparison.of.values()) - set(SERVICES) == set(comparison.ways)


def test_results_tell_all_ways_and_services_apart_by_name_alone() -> None:
    names = [*SERVICES, *(name for comparison in COMPARISONS.values() for name in comparison.ways)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (tuple(SERVICES), ("rendered", "raw")),
        (("naive", "rendered"), ("rendered",)),
        (("raw", "plain"), ()),
        ((), ()),
    ],
)
@pytest.mark.parametrize("comparison", [LANES, CACHES])
def test_services_that_ways_need(comparison: Comparison, chosen: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert comparison.needed(chosen) == expected


@pytest.mark.parametrize(
    ("chosen", "others"),
    [(tuple(SERVICES), ("plain", "plain-gc", "raw")), (("naive", "rendered"), ()), (("raw", "plain"), None)],
)
def test_ways_apart_are_started_instead_of_their_service(
    chosen: tuple[str, ...], others: tuple[str, ...] | None
) -> None:
    assert CRUD.needed(chosen) == (() if others is None else (*others, "valkey", "memory", "no-cache"))


def test_all_services_have_a_part_in_the_profiles_without_caches() -> None:
    assert ARENA.needed(SERVICES) == tuple(SERVICES)
    assert ARENA.contestants("json", ("plain", "rendered")) == ["plain", "rendered"]
    assert [one.port for one in ARENA.line_up("json", [running("rendered", 1), running("plain", 2)])] == [2, 1]


def test_a_way_apart_is_its_own_running_service() -> None:
    started = [replace(running("rendered", number), service=CRUD.ways[name]) for number, name in enumerate(CRUD.ways)]

    assert CRUD.line_up("crud", [*started, running("plain", 9)]) == [running("plain", 9), *started]
    assert [one.service.root for one in started] == ["", "", ""]
    assert {one.service.cache_backend for one in started} == {"valkey", "memory", "none"}


@pytest.mark.parametrize(
    ("comparison", "scenario", "services", "expected"),
    [
        (LANES, "user", ("rendered", "raw"), ["orm", "core", "prepared", "raw"]),
        (LANES, "write", ("rendered",), ["orm", "core", "prepared", "prepared-autocommit"]),
        (LANES, "posts", ("rendered", "raw"), ["orm", "orm-selectinload", "core", "prepared", "raw"]),
        (CACHES, "user", ("rendered", "raw"), ["uncached", "miss"]),
        (CRUD, "crud", ("plain", "valkey", "memory", "no-cache"), ["plain", "valkey", "memory", "no-cache"]),
    ],
)
def test_ways_stand_in_the_place_of_their_service(
    comparison: Comparison, scenario: str, services: tuple[str, ...], expected: list[str]
) -> None:
    assert comparison.contestants(scenario, services) == expected


def running(name: str, port: int) -> Running:
    return Running(SERVICES[name], 1, port, cast(Any, None), Path())


@pytest.mark.parametrize(("comparison", "scenario"), [(LANES, "write"), (CACHES, "user-popular")])
def test_all_ways_are_one_running_service_below_paths_of_their_own(comparison: Comparison, scenario: str) -> None:
    rendered, raw = running("rendered", 1), running("raw", 2)
    *ways, limit = comparison.line_up(scenario, [rendered, raw])

    assert limit is raw
    assert {one.port for one in ways} == {1}
    names = [name for name in comparison.of[scenario] if name != LIMIT]
    assert [one.service.root for one in ways] == [f"/{comparison.section}/{name}" for name in names]


@contextmanager
def service(*, differs: str = "", forgets: str = "") -> Iterator[int]:
    """Keeps the names of users; below one path it answers another e-mail address, below one it keeps no name."""
    names: dict[str, str] = {}

    class Handler(BaseHTTPRequestHandler):
        def answer(self, name: str | None = None) -> None:
            user_id = self.path.rpartition("/")[2]
            known = UUID(user_id) in USERS
            email = "other@example.com" if differs and self.path.startswith(differs) else "a@example.com"
            content = json.dumps({"id": user_id, "email": email, "name": name or names.get(user_id, "A")}).encode()
            self.send_response(200 if known else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            self.answer()

        def do_PATCH(self) -> None:
            name = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["name"]
            if not (forgets and self.path.startswith(forgets)):
                names[self.path.rpartition("/")[2]] = name
            self.answer(name)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with served_by(Handler) as port:
        yield port


def checked(scenario: str, port: int, comparison: Comparison = LANES) -> dict[tuple[str, str], int]:
    compared = comparison.line_up(scenario, [running("rendered", port), running("raw", port)])
    data = {one.service.name: Data(USERS, "/none", one.service.root) for one in compared}
    return check([scenario], compared, data)


@pytest.mark.parametrize("scenario", ["user", "write"])
def test_lanes_that_agree_pass_with_the_sizes_of_their_answers(scenario: str) -> None:
    with service() as port:
        assert set(checked(scenario, port)) == {(scenario, name) for name in LANES.of[scenario]}


@pytest.mark.parametrize("lane", ["core", "prepared"])
@pytest.mark.parametrize(("scenario", "method"), [("user", "GET"), ("write", "PATCH")])
def test_a_planted_difference_between_lanes_is_found_and_named(lane: str, scenario: str, method: str) -> None:
    with (
        service(differs=f"/lanes/{lane}/") as port,
        pytest.raises(AnswersDiffer, match=f"orm and {lane} answer {method} /lanes/{lane}/users/.* at /body/email"),
    ):
        checked(scenario, port)


def test_a_cache_that_answers_something_else_is_found_and_named() -> None:
    with (
        service(differs="/caches/cashews/") as port,
        pytest.raises(AnswersDiffer, match=r"uncached and cashews answer GET /caches/cashews/users/.* at /body/email"),
    ):
        checked("user-popular", port, CACHES)


def test_a_lane_that_does_not_commit_is_found_though_another_wrote_the_same() -> None:
    with (
        service(forgets="/lanes/prepared-autocommit/") as port,
        pytest.raises(AnswersDiffer, match="prepared-autocommit: after the name became"),
    ):
        checked("write", port)


@contextmanager
def counting(wrong: str = "") -> Iterator[int]:
    """Answers each path with itself, but one of them with something else."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps("wrong" if self.path == wrong else self.path).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            pass

    with served_by(Handler) as port:
        yield port


@pytest.mark.parametrize(("scenario", "wrong"), [("json", "/json/31"), ("api-4", "/baseline11?a=-5&b=900")])
def test_a_service_that_knows_only_the_measured_requests_ends_the_run(scenario: str, wrong: str) -> None:
    with counting() as right, counting(wrong) as other:
        services = [running("plain", right), running("rendered", other)]
        data = {one.service.name: Data(USERS, "/none") for one in services}
        with pytest.raises(AnswersDiffer, match=f"answer GET {re.escape(wrong)} differently"):
            check([scenario], services, data)
