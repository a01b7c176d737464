"""What requests ask of the routes whose responses are kept: equal keys for what means the same."""

from typing import NamedTuple
from urllib.parse import unquote, urlencode

from fastapi import FastAPI
from fastapi.security import APIKeyQuery

from app.core.http_caching import Routes
from app.core.http_caching.routes import (
    CachedRoute,
    NotCacheable,
    Parameter,
    flat,
    model_of,
    parse_query,
)

# Remembered targets of one worker, and the longest of their paths and queries.
MAX_TARGETS = 4096
MAX_TARGET_CHARS = 512


class Target(NamedTuple):
    """What one path and query ask for, in canonical form."""

    route: CachedRoute
    # The route's template with the values, and the query: equal for requests that mean the same.
    key: str
    tags: tuple[str, ...]
    path: str
    query: bytes


class KeptRoutes(Routes):
    """All routes, and the targets of those whose responses are kept."""

    def __init__(self, app: FastAPI) -> None:
        super().__init__(app)
        self._keyed: dict[CachedRoute, KeyedRoute] = {}
        self._targets: dict[tuple[str, bytes], Target] = {}

    @property
    def vary_headers(self) -> frozenset[bytes]:
        """Request headers that shape the response of some route."""
        return frozenset(name for route in self._routes or () for name in route.vary)

    def remembered(self, path: str, query: bytes) -> Target | None:
        """What `target` found lately."""
        return self._targets.get((path, query))

    def target(self, path: str, query: bytes) -> Target | None:
        """What a GET asks for, when its route is kept and its parameters have a canonical form."""
        route = self.find("GET", path)
        if route is None or not route.policy.kept:
            return None
        if route not in self._keyed:
            self._keyed[route] = KeyedRoute(route)
        try:
            target = self._keyed[route].target(path, query)
        except NotCacheable:
            return None
        if target.path != path and self.find("GET", target.path) is not route:
            return None
        if len(path) + len(query) <= MAX_TARGET_CHARS:
            if len(self._targets) >= MAX_TARGETS:
                self._targets.clear()
            self._targets[path, query] = target
        return target


class KeyedRoute:
    """A route, and which of its parameters tell one response from another."""

    def __init__(self, route: CachedRoute) -> None:
        self.route = route
        self._query_names = {name for parameter in route.query for name in parameter.names}
        # Of the application's own security schemes.
        self._key_queries: set[str] = set()
        # Whether parameters that are not declared are refused, or are part of the response.
        self._closed = False
        for owner in flat(route.dependant) if route.dependant else ():
            if isinstance(owner.call, APIKeyQuery):
                self._key_queries.add(owner.call.model.name)
            for field in owner.query_params:
                model = model_of(field)
                if model and model.model_config.get("extra") in ("forbid", "allow"):
                    self._closed = True

    def target(self, path: str, query: bytes) -> Target:
        """What they ask of this route.

        Raises:
            NotCacheable: when the application has to answer by itself.
        """
        route = self.route
        raw = route.in_path(path)
        values = [route.parameters[name].canonical(value) for name, value in raw.items()]
        key = " ".join([route.path, *values])
        canonical_query = ""
        if query:
            self._check({name for name, _ in parse_query(query)})
            sent = route.in_query(query)
            pairs = [(name, _sent(parameter, value)) for parameter, name, value in sent]
            canonical_query = urlencode(pairs)
            if pairs:
                key = f"{key}?{canonical_query}"
        tags = route.tags(path, query)
        if raw:
            parameters = route.parameters
            path = route.format.format_map(
                {name: _sent(parameters[name], value) for name, value in raw.items()}
            )
        return Target(route, key, tags, path, canonical_query.encode())

    def _check(self, names: set[str]) -> None:
        """Raises NotCacheable for what is part of no key."""
        if not self._key_queries.isdisjoint(names):
            raise NotCacheable
        if self._closed and not self._query_names.issuperset(names):
            raise NotCacheable


def _sent(parameter: Parameter, value: str) -> str:
    """The form in which the application gets it."""
    if parameter.validate is None:
        return value
    return unquote(parameter.canonical(value))
