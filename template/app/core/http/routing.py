"""Flatten nested routers, so that a request is matched once.

FastAPI keeps included routers as a tree and matches a request on each level: two levels take a
third of the time of a simple request.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts

# The options of a path operation.
_OPTIONS = [
    name
    for name in inspect.signature(APIRouter.add_api_route).parameters
    if name not in ("self", "route_class_override")
]

_SOCKET_OPTIONS = ("path", "endpoint", "name", "dependencies")


def flatten(app: FastAPI) -> None:
    """Replace included routers by their routes, with the options that the routers add.

    Change nothing if an included router has a mount, a limit on forms, or an option that a later
    FastAPI adds: requests are then slower, and answered the same.
    """
    flat = APIRouter(dependency_overrides_provider=app)
    routes: list[Any] = []
    for context in iter_route_contexts(app.router.routes):
        route = context.original_route
        if route in app.router.routes:
            routes.append(route)
            continue
        options = _options(context)
        if isinstance(route, APIWebSocketRoute):
            flat.add_api_websocket_route(**{name: options[name] for name in _SOCKET_OPTIONS})
            routes.append(flat.routes[-1])
            continue
        if not isinstance(route, APIRoute) or len(options) < len(_OPTIONS):
            return
        flat.add_api_route(**options, route_class_override=type(route))
        routes.append(flat.routes[-1])
    if not any(_form_limits(app.router.routes)):
        app.router.routes[:] = routes


def _options(context: RouteContext) -> dict[str, Any]:
    """Return the options of the route, with those that the routers add."""
    return {
        name: getattr(owner, name)
        for owner in (context.original_route, context)
        for name in _OPTIONS
        if hasattr(owner, name)
    }


def _form_limits(routes: Sequence[Any]) -> Iterator[object]:
    """Yield the limits that routers set for all of their routes."""
    for route in routes:
        if hasattr(route, "include_context"):
            yield route.include_context.form_limits
            yield from _form_limits(route.original_router.routes)
