"""Protected routes refuse strangers, and nothing of one caller reaches another."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from httpx2 import AsyncClient, Client, Response

from app.core.security.declarations import is_own, scopes_of
from tests.core.callers import CALLER, acting_as
from tests.core.openapi import Operation, operations
from tests.core.serving import serving

ANONYMOUS = {"Authorization": ""}
STRANGER = "stranger"


@dataclass(frozen=True)
class Route:
    """A method of a path of the team.

    Args:
        scopes: those that callers need; None if anybody may call.
        operation: its description, unless it is not in the OpenAPI document.
    """

    method: str
    path: str
    scopes: frozenset[str] | None
    operation: Operation | None

    def __str__(self) -> str:
        return f"{self.method.upper()} {self.path}"

    def request(self) -> dict[str, Any]:
        """Return the arguments of a valid request."""
        return self.operation.request(None) if self.operation else {}

    def url(self, objects: Mapping[str, str | None]) -> str:
        """Return the URL of an object that `objects` name; otherwise of one that nobody has."""
        unknown = Operation(self.method, self.path, {}, {}).url(None)
        return objects.get(self.path) or unknown


def routes(app: FastAPI) -> Iterator[Route]:
    """Yield the routes of the team, but no WebSockets; last those that delete."""
    documented = {(each.method, each.path): each for each in operations(app.openapi())}
    found = []
    for context in iter_route_contexts(app.router.routes):
        if not is_own(context):
            for method in map(str.lower, context.methods or ()):
                path = context.path_format or ""
                operation = documented.get((method, path))
                found.append(Route(method, path, scopes_of(context), operation))
    yield from sorted(found, key=lambda route: route.method == "delete")


def without_object(every: list[Route], objects: Mapping[str, str | None]) -> list[str]:
    """Return the protected paths with an id that `objects` do not name."""
    paths = {route.path for route in every if route.scopes is not None and "{" in route.path}
    return sorted(paths - objects.keys())


async def test_every_protected_route_refuses_strangers(app: FastAPI, client: AsyncClient) -> None:
    wrong = []
    for route in routes(app):
        for headers, status in ((ANONYMOUS, 401), (acting_as(STRANGER, ()), 403)):
            if route.scopes is None or (status == 403 and not route.scopes):
                continue
            response = await client.request(route.method, route.url({}), headers=headers)
            if response.status_code != status or "WWW-Authenticate" not in response.headers:
                wrong.append(f"{route}: {response.status_code} in place of {status}")

    assert wrong == []


async def test_nothing_of_one_caller_reaches_another(
    app: FastAPI, database: None, owned_objects: dict[str, str | None]
) -> None:
    every = [*routes(app)]
    paths = ", ".join(without_object(every, owned_objects))
    assert not paths, (
        f"the fixture `owned_objects` of tests/conftest.py has no {paths}: give it the URL of an "
        "object that the fixture `client` has made, or None if the object belongs to all callers "
        "with the scopes of the route"
    )
    # A real server: a stream may never end.
    wrong = await asyncio.to_thread(_ask_as_several, every, owned_objects)
    assert wrong == []


def _ask_as_several(every: list[Route], objects: Mapping[str, str | None]) -> list[str]:
    wrong = []
    with serving() as client:
        for route in every:
            if route.method == "get":
                wrong += [f"{route}: {each}" for each in faults_of_get(client, route, objects)]
            if route.scopes is not None and objects.get(route.path):
                wrong += [f"{route}: {each}" for each in faults_of_object(client, route, objects)]
    return wrong


def faults_of_get(client: Client, route: Route, objects: Mapping[str, str | None]) -> Iterator[str]:
    """Yield the faults of a GET whose answers to one caller others get, or may get from a cache."""
    first, again, other, anonymous = (
        _send(client, route, objects, headers)
        for headers in (acting_as(CALLER), acting_as(CALLER), acting_as(STRANGER), ANONYMOUS)
    )
    for response in (first, again, other, anonymous):
        control = response.headers.get("cache-control", "")
        is_private = {"private", "no-store"} & _items(control)
        if route.scopes is not None and ("hit" in _status(response) or not is_private):
            yield f"a shared cache may store the answer: Cache-Control: {control}"
    if route.scopes is not None:
        if anonymous.status_code != 401:
            yield f"{anonymous.status_code} in place of 401 after requests of other callers"
    elif first.content == again.content and not (
        first.content == other.content == anonymous.content
    ):
        # Otherwise it has a time, or the id of its request.
        yield "the answer of a public route depends on its caller"


def faults_of_object(
    client: Client, route: Route, objects: Mapping[str, str | None]
) -> Iterator[str]:
    """Yield the faults of a route that does not refuse a stranger the object of a caller."""
    response = _send(client, route, objects, acting_as(STRANGER))
    if response.status_code == 422:
        yield f"422 for a valid request: give the fields of its body `examples`: {response.text}"
    elif response.status_code != 404:
        yield f"{response.status_code} in place of 404 for the object of another caller"
    response = _send(client, route, objects, acting_as(CALLER))
    if response.status_code in (401, 403, 404):
        yield f"{response.status_code} for the caller that has made the object"


def _send(
    client: Client, route: Route, objects: Mapping[str, str | None], headers: dict[str, str]
) -> Response:
    """Return the response, without a body if it is a stream: it may never end."""
    request = route.request()
    headers = request.pop("headers", {}) | headers
    with client.stream(route.method, route.url(objects), headers=headers, **request) as response:
        if "content-length" in response.headers:
            response.read()
    return response


def _status(response: Response) -> str:
    return response.headers.get("cache-status", "")


def _items(control: str) -> set[str]:
    return {each.strip().lower() for each in control.split(",")}
