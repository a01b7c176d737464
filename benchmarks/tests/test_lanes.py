"""Who is compared in which scenario, and that a lane which answers or writes something else ends the run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from benchmarks.harness.answers import AnswersDiffer
from benchmarks.harness.lanes import LANES, LANES_OF, contestants, in_lanes, needed
from benchmarks.harness.runner import check
from benchmarks.harness.scenarios import ENDPOINTS, Data
from benchmarks.harness.services import SERVICES, Running
from benchmarks.tests.handlers import served_by

USERS = [UUID(int=number) for number in range(1, 50)]


def test_lanes_are_compared_in_endpoints_with_one_of_the_orm() -> None:
    assert set(LANES_OF) <= set(ENDPOINTS)
    assert {name for names in LANES_OF.values() for name in names} == set(LANES)
    assert all("orm" in names for names in LANES_OF.values())
    # Results tell both apart by name alone.
    assert not set(LANES) & set(SERVICES)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (tuple(SERVICES), ("rendered", "raw")),
        (("naive", "rendered"), ("rendered",)),
        (("raw", "plain"), ()),
        ((), ()),
    ],
)
def test_services_that_lanes_need(chosen: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert needed(chosen) == expected


@pytest.mark.parametrize(
    ("scenario", "services", "expected"),
    [
        ("user", ("rendered", "raw"), ["orm", "core", "prepared", "raw"]),
        ("write", ("rendered",), ["orm", "core", "prepared", "prepared-autocommit"]),
        ("posts", ("rendered", "raw"), ["orm", "orm-selectinload", "core", "prepared", "raw"]),
    ],
)
def test_lanes_stand_in_the_place_of_their_service(
    scenario: str, services: tuple[str, ...], expected: list[str]
) -> None:
    assert contestants(scenario, services) == expected


def running(name: str, port: int) -> Running:
    return Running(SERVICES[name], 1, port, cast(Any, None), Path())


def test_all_lanes_are_one_running_service_below_paths_of_their_own() -> None:
    rendered, raw = running("rendered", 1), running("raw", 2)
    *lanes, limit = in_lanes("write", [rendered, raw])

    assert limit is raw
    assert {one.port for one in lanes} == {1}
    assert [one.service.root for one in lanes] == [f"/lanes/{name}" for name in LANES_OF["write"]]


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


def checked(scenario: str, port: int) -> dict[tuple[str, str], int]:
    compared = in_lanes(scenario, [running("rendered", port), running("raw", port)])
    data = {one.service.name: Data(USERS, "/none", one.service.root) for one in compared}
    return check([scenario], compared, data)


@pytest.mark.parametrize("scenario", ["user", "write"])
def test_lanes_that_agree_pass_with_the_sizes_of_their_answers(scenario: str) -> None:
    with service() as port:
        assert set(checked(scenario, port)) == {(scenario, name) for name in (*LANES_OF[scenario], "raw")}


@pytest.mark.parametrize("lane", ["core", "prepared"])
@pytest.mark.parametrize(("scenario", "method"), [("user", "GET"), ("write", "PATCH")])
def test_a_planted_difference_between_lanes_is_found_and_named(lane: str, scenario: str, method: str) -> None:
    with (
        service(differs=f"/lanes/{lane}/") as port,
        pytest.raises(AnswersDiffer, match=f"orm and {lane} answer {method} /lanes/{lane}/users/.* at /body/email"),
    ):
        checked(scenario, port)


def test_a_lane_that_does_not_commit_is_found_though_another_wrote_the_same() -> None:
    with (
        service(forgets="/lanes/prepared-autocommit/") as port,
        pytest.raises(AnswersDiffer, match="prepared-autocommit: after the name became"),
    ):
        checked("write", port)
