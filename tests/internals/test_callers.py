"""The guards over the callers of a team's routes find each fault."""

from collections.abc import Callable
from contextlib import closing

import httpx2
import pytest

from tests.core.callers import acting_as, every_scope
from tests.core.test_callers import Route, faults_of_get, faults_of_object, without_object

Answer = Callable[[httpx2.Request], httpx2.Response]
PRIVATE = {"Cache-Control": "private, no-store"}
PUBLIC = {"Cache-Control": "public, max-age=60"}
READ = frozenset({"orders:read"})
LIST = Route("get", "/orders", READ, None)
ORDER = Route("patch", "/orders/{order_id}", READ, None)
PRICES = Route("get", "/prices", None, None)
OBJECTS = {"/orders/{order_id}": "/orders/7"}


def subject(request: httpx2.Request) -> str:
    """Return `own`, `other` or nothing."""
    sent = request.headers["Authorization"]
    return "" if not sent else "own" if sent == acting_as("developer")["Authorization"] else "other"


@pytest.fixture(autouse=True)
def _same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def token(subject: str, _: object) -> str:
        return subject

    monkeypatch.setattr("tests.core.callers.token", token)


def client_of(answer: Answer) -> httpx2.Client:
    return httpx2.Client(transport=httpx2.MockTransport(answer), base_url="http://test")


def denied(request: httpx2.Request, headers: dict[str, str]) -> httpx2.Response:
    """Answer each caller with its own list, and strangers with 401."""
    name = subject(request)
    return httpx2.Response(200 if name else 401, headers=headers, text=name)


@pytest.mark.parametrize(
    ("route", "answer", "faults"),
    [
        pytest.param(LIST, lambda request: denied(request, PRIVATE), [], id="private"),
        pytest.param(
            LIST,
            lambda request: denied(request, PUBLIC),
            ["a shared cache may store the answer: Cache-Control: public, max-age=60"] * 4,
            id="stored by a CDN",
        ),
        pytest.param(
            LIST,
            lambda _: httpx2.Response(
                200, headers=PRIVATE | {"Cache-Status": "app; hit; ttl=9"}, text="own"
            ),
            ["a shared cache may store the answer: Cache-Control: private, no-store"] * 4
            + ["200 in place of 401 after requests of other callers"],
            id="stored by the service",
        ),
        pytest.param(PRICES, lambda _: httpx2.Response(200, text="7"), [], id="public"),
        pytest.param(
            PRICES,
            lambda request: httpx2.Response(200, text=subject(request)),
            ["the answer of a public route depends on its caller"],
            id="public, of one caller",
        ),
    ],
)
def test_the_answers_to_several_callers(route: Route, answer: Answer, faults: list[str]) -> None:
    with closing(client_of(answer)) as client:
        assert [*faults_of_get(client, route, {})] == faults


@pytest.mark.parametrize(
    ("own", "other", "faults"),
    [
        (200, 404, []),
        (409, 404, []),
        (200, 200, ["200 in place of 404 for the object of another caller"]),
        (200, 403, ["403 in place of 404 for the object of another caller"]),
        (404, 404, ["404 for the caller that has made the object"]),
        (200, 422, ["422 for a valid request: give the fields of its body `examples`: "]),
    ],
)
def test_the_object_of_another_caller(own: int, other: int, faults: list[str]) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/orders/7"
        return httpx2.Response(own if subject(request) == "own" else other)

    with closing(client_of(answer)) as client:
        assert [*faults_of_object(client, ORDER, OBJECTS)] == faults


def test_a_protected_path_with_an_id_needs_an_object() -> None:
    every = [LIST, ORDER, PRICES, Route("get", "/prices/{price_id}", None, None)]

    assert without_object(every, {}) == ["/orders/{order_id}"]
    assert without_object(every, OBJECTS) == []
    assert without_object(every, {"/orders/{order_id}": None}) == []


def test_the_scopes_are_those_of_all_routes() -> None:
    assert every_scope() >= {"users:read", "users:write", "posts:write", "dashboard:read"}
