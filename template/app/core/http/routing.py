"""Flat lists of routes, and a trie that finds the few of them that a path can match.

FastAPI keeps included routers as a tree, and compares a request with each route on each level: two
levels take a third of the time of a simple request.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

from fastapi import APIRouter, FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from starlette.convertors import (
    Convertor,
    FloatConvertor,
    IntegerConvertor,
    StringConvertor,
    UUIDConvertor,
)
from starlette.types import Scope

Member = TypeVar("Member")

# Converters whose values are within one segment.
_IN_SEGMENT = (StringConvertor, IntegerConvertor, FloatConvertor, UUIDConvertor)

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


class Node:
    """The members of a trie below one prefix of whole segments, by their places in the list."""

    def __init__(self) -> None:
        self.literal: dict[str, Node] = {}
        self.parameter: Node | None = None
        self.ends: list[int] = []
        # Members that any rest of the path may match.
        self.rests: list[int] = []

    def below(self, segment: str) -> "Node":
        """Return the node of a segment of a template; make it if necessary."""
        if "{" not in segment:
            return self.literal.setdefault(segment, Node())
        if self.parameter is None:
            self.parameter = Node()
        return self.parameter


class Matcher(Generic[Member]):
    """Finds the members that may match a path, in their order; their regexes decide.

    Args:
        members: each with the format of its path (`/things/{name}`), or None if it may match any
            path, and with its converters.
    """

    def __init__(
        self, members: Iterable[tuple[str | None, Mapping[str, Convertor[Any]], Member]]
    ) -> None:
        self._root = Node()
        self._members: list[Member] = []
        self._exact: dict[str, list[Member]] = {}
        exact = []
        for path, convertors, member in members:
            self._add(path, convertors)
            self._members.append(member)
            if path and "{" not in path:
                exact.append(path)
        self._exact = {path: self.candidates(path) for path in exact}

    def candidates(self, path: str) -> list[Member]:
        """Return the members that may match; do not change the list."""
        found = self._exact.get(path)
        if found is not None:
            return found
        if path.endswith("\n"):
            # `$` matches before it, too.
            return self._members
        nodes, places = [self._root], [*self._root.rests]
        for segment in path.split("/"):
            below = []
            for node in nodes:
                literal = node.literal.get(segment)
                for each in (literal, node.parameter):
                    if each is not None:
                        below.append(each)
                        places += each.rests
            nodes = below
        for node in nodes:
            places += node.ends
        places.sort()
        return [self._members[place] for place in places]

    def _add(self, path: str | None, convertors: Mapping[str, Convertor[Any]]) -> None:
        node, place = self._root, len(self._members)
        # Other converters, as that of `{rest:path}`, may match several segments.
        wide = [
            "{" + name + "}" for name, each in convertors.items() if type(each) not in _IN_SEGMENT
        ]
        for segment in path.split("/") if path is not None else ("",):
            if path is None or any(name in segment for name in wide):
                node.rests.append(place)
                return
            node = node.below(segment)
        node.ends.append(place)


def route_path(scope: Scope) -> str:
    """Return the path below the application's root, as the router matches it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def flat(dependant: Dependant) -> Iterator[Dependant]:
    """Yield an endpoint's dependant and everything that it depends on."""
    yield dependant
    for dependency in dependant.dependencies:
        yield from flat(dependency)
