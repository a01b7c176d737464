"""The real server, with lifespan and two workers, answers every route that OpenAPI knows."""

import json
from typing import get_type_hints

from fastapi import FastAPI, Response
from fastapi.routing import RouteContext, iter_route_contexts
from pydantic import TypeAdapter, ValidationError

from tests.core.openapi import Identifier, operations
from tests.core.plugin import migrated_database
from tests.core.serving import serving

# Each request is sent this often: cold and warm, missed and hit, by one worker and the other.
TIMES = 4


def test_every_route_answers_as_it_declares() -> None:
    from app.main import app

    routes = routes_that_make_their_bytes(app)
    with migrated_database() as url, serving(DATABASE_URL=url) as client:
        response = client.get("/openapi.json").raise_for_status()
        assert "server" not in response.headers
        created: dict[str, Identifier] = {}
        sent = 0
        errors: list[str] = []
        wrong: list[str] = []
        for operation in operations(response.json()):
            url = operation.url(created.get(operation.parent or ""))
            # The newest thing is what others may refer to.
            newest = list(created.values())[-1] if created else None
            body, query = operation.body(newest), operation.query(newest)
            for _ in range(TIMES):
                response = client.request(operation.method, url, json=body, params=query)
                sent += 1
                shown = f"{operation.method.upper()} {url}: {response.status_code}"
                if response.status_code >= 500:
                    errors.append(f"{shown} {response.text}")
                route = routes.get((operation.method.upper(), operation.path))
                if route and response.status_code == (route.status_code or 200):
                    found = differences(route, response.content)
                    wrong += [f"{shown}: {difference}" for difference in found]
                if operation.method == "post" and response.status_code == 201:
                    created.setdefault(operation.path, response.json().get("id"))

    assert sent >= 2 * TIMES
    assert errors == [], "these answers are errors of the server"
    assert wrong == [], "these bodies are not what the response_model of their route makes"


def routes_that_make_their_bytes(app: FastAPI) -> dict[tuple[str, str], RouteContext]:
    """The routes that declare a response_model and return a `Response`, which nothing validates."""
    routes: dict[tuple[str, str], RouteContext] = {}
    for route in iter_route_contexts(app.router.routes):
        if getattr(route, "response_model", None) is not None:
            returned = get_type_hints(route.endpoint).get("return")
            if isinstance(returned, type) and issubclass(returned, Response):
                for method in route.methods or ():
                    routes[method, route.path_format or ""] = route
    return routes


def differences(route: RouteContext, body: bytes) -> list[str]:
    """How a body differs from what the route's response_model reads from it and writes again."""
    model = TypeAdapter(route.response_model)
    try:
        value = model.validate_json(body)
    except ValidationError as error:
        return [str(error)]
    expected = model.dump_python(value, mode="json", by_alias=True, exclude_unset=True)
    sent = json.loads(body)
    return [] if sent == expected else [f"sent {sent}, the model makes {expected}"]
