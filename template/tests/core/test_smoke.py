"""The real server, with lifespan and two workers, answers each route of the OpenAPI document."""

import json
from typing import Any, get_type_hints

from fastapi import FastAPI, Response
from fastapi.routing import RouteContext, iter_route_contexts
from httpx2 import Client
from pydantic import TypeAdapter, ValidationError

from tests.core.openapi import Identifier, operations
from tests.core.plugin import migrated_database
from tests.core.serving import serving

# How often each request is sent: cold and warm, missed and hit, by one worker and the other.
TIMES = 4


def test_every_route_answers_as_it_declares() -> None:
    from app.main import app

    routes = routes_that_make_their_bytes(app)
    with migrated_database() as url, serving(DATABASE_URL=url) as client:
        response = client.get("/openapi.json").raise_for_status()
        assert "server" not in response.headers
        created: dict[str, Identifier | None] = {}
        sent = 0
        errors: list[str] = []
        wrong: list[str] = []
        for operation in operations(response.json()):
            url = operation.url(created.get(operation.parent or ""))
            # Bodies refer to the newest thing.
            newest = list(created.values())[-1] if created else None
            request = operation.request(newest)
            for _ in range(TIMES):
                status, content = send(client, operation.method, url, **request)
                sent += 1
                shown = f"{operation.method.upper()} {url}: {status}"
                if status >= 500:
                    errors.append(f"{shown} {content.decode()}")
                route = routes.get((operation.method.upper(), operation.path))
                if content and route and status == (route.status_code or 200):
                    found = differences(route, content)
                    wrong += [f"{shown}: {difference}" for difference in found]
                if operation.method == "post" and status == 201:
                    created.setdefault(operation.path, identifier(content))

    assert sent >= 2 * TIMES
    assert errors == [], "these answers are errors of the server"
    assert wrong == [], "these bodies are not what the response_model of their route makes"


def send(client: Client, method: str, url: str, **request: Any) -> tuple[int, bytes]:
    """Return the status and the body, which is empty for a stream: it may never end."""
    with client.stream(method, url, **request) as response:
        content = response.read() if "content-length" in response.headers else b""
    return response.status_code, content


def identifier(content: bytes) -> Identifier | None:
    """Return the `id` of a created thing, if the body has one."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    return body.get("id") if isinstance(body, dict) else None


def routes_that_make_their_bytes(app: FastAPI) -> dict[tuple[str, str], RouteContext]:
    """Return the routes with a response_model whose `Response` nothing validates."""
    routes: dict[tuple[str, str], RouteContext] = {}
    for route in iter_route_contexts(app.router.routes):
        if getattr(route, "response_model", None) is not None:
            returned = get_type_hints(route.endpoint).get("return")
            if isinstance(returned, type) and issubclass(returned, Response):
                for method in route.methods or ():
                    routes[method, route.path_format or ""] = route
    return routes


def differences(route: RouteContext, body: bytes) -> list[str]:
    """Compare a body with the one that the response_model of the route makes from it."""
    model = TypeAdapter(route.response_model)
    try:
        value = model.validate_json(body)
    except ValidationError as error:
        return [str(error)]
    expected = model.dump_python(value, mode="json", by_alias=True, exclude_unset=True)
    sent = json.loads(body)
    return [] if sent == expected else [f"sent {sent}, the model makes {expected}"]
