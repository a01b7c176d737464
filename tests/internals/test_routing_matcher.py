"""The trie finds the route that FastAPI's linear scan finds, for any table and path."""

from random import Random
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, Response
from starlette.routing import Host, Match, Mount, Route

from app.core.cache.keys import RouteTable
from app.core.http.routing import Matcher

SEGMENTS = ["a", "b", "", "7", "1.5", "é", "a%2Fb", "{x", "new\n", "x.json"]
PARAMETERS = ["{%s}", "{%s:int}", "{%s:float}", "{%s:uuid}", "{%s:path}", "{%s}.json", "v{%s:int}"]
UUID = "6f1b2d7e-0d9e-4f0b-8a53-2f1d3f0f2a11"


KINDS = ["route", "route", "route", "post", "mount", "host"]


def a_template(random: Random) -> str:
    parts = random.choices(SEGMENTS + PARAMETERS, k=random.randrange(4))
    named = [part % f"p{place}" if "%s" in part else part for place, part in enumerate(parts)]
    return "/" + "/".join(named)


def a_path(random: Random) -> str:
    return "/" + "/".join(random.choices([*SEGMENTS, UUID, "v3", "zz"], k=random.randrange(5)))


async def answer() -> Response: ...  # type: ignore[empty-body]


def member(kind: str, path: str) -> Any:
    if kind == "mount":
        return Mount(path, Response())
    if kind == "host":
        return Host("a.test", Response())
    return Route(path, answer, methods=["POST" if kind == "post" else "GET"])


def scope_of(path: str, method: str = "GET") -> dict[str, Any]:
    return {"type": "http", "path": path, "method": method, "headers": [(b"host", b"a.test")]}


TABLES = [
    ([("route", "/a")], "/a\n"),
    ([("route", "/{p0:path}"), ("route", "/a")], "/a"),
    ([("route", "/a/{p0}"), ("post", "/{p0}/b"), ("route", "/a/b")], "/a/b"),
    ([("mount", ""), ("route", "/a")], "/a"),
]


def test_every_match_of_a_linear_scan_is_a_candidate_in_its_order() -> None:
    random = Random(19)  # noqa: S311
    matches = 0
    for _ in range(400):
        count = random.randrange(1, 12)
        table = [(random.choice(KINDS), a_template(random)) for _ in range(count)]
        matches += sum(compare(table, a_path(random)) for _ in range(4))
        compare(table, random.choice(table)[1])
    assert matches > 600


@pytest.mark.parametrize(("table", "path"), TABLES)
def test_odd_tables_match_as_in_a_linear_scan(table: list[tuple[str, str]], path: str) -> None:
    assert compare(table, path)


def compare(table: list[tuple[str, str]], path: str) -> int:
    """Compare the matches of each method, and return the number of those of GET."""
    routes = [member(*each) for each in table]
    matcher = Matcher(
        (getattr(route, "path_format", None), getattr(route, "param_convertors", {}), route)
        for route in routes
    )

    for method in ("GET", "HEAD", "POST", "PUT"):
        scope = scope_of(path, method)
        results = [(id(r), r.matches(scope)[0]) for r in routes]
        found = [(id(r), r.matches(scope)[0]) for r in matcher.candidates(path)]
        expected = [each for each in results if each[1] is not Match.NONE]
        assert [each for each in found if each[1] is not Match.NONE] == expected
    return len(expected)


def test_only_routes_that_can_match_are_candidates() -> None:
    things = [f"/things{number}/{{name}}" for number in range(50)]
    routes = [member("route", path) for path in [*things, "/exact", "/{any}", "/exact"]]
    matcher = Matcher((route.path_format, route.param_convertors, route) for route in routes)

    assert matcher.candidates("/things7/x") == [routes[7]]
    assert matcher.candidates("/exact") == routes[50:]
    assert matcher.candidates("/nowhere/else/at/all") == []


def test_the_cache_finds_the_route_that_the_router_finds() -> None:
    random = Random(7)  # noqa: S311
    for _ in range(60):
        table = [a_template(random) for _ in range(random.randrange(1, 7))]
        for method in ("GET", "POST"):
            compare_cache(table, a_path(random), method)


def compare_cache(table: list[str], path: str, method: str) -> None:
    app = FastAPI(openapi_url=None)
    router = APIRouter()
    for place, each in enumerate(table):
        owner = router if place % 2 else app
        methods = ["POST" if place % 3 == 2 else "GET"]
        owner.add_api_route(each, answer, methods=methods, response_model=None)
    for route in router.routes:
        app.router.routes.append(route)
    full = (r for r in app.router.routes if r.matches(scope_of(path, method))[0] is Match.FULL)
    expected: Any = next(full, None)

    found = RouteTable(app).find(method, path)

    assert (found and found.path) == (expected and expected.path)
