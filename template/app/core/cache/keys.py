"""Keys of responses: one key for all requests that mean the same.

A request belongs to the first route that matches it, as in the router.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote, urlencode

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security import APIKeyQuery
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from starlette.convertors import Convertor
from starlette.routing import WebSocketRoute
from starlette.types import Scope

from app.core.cache.conditional import CREDENTIAL_HEADERS, Declaration, declarations
from app.core.cache.parameters import (
    NotCacheable,
    Parameter,
    model_of,
    parse_query,
    query_parameters,
)
from app.core.cache.policy import no_store, policy_of
from app.core.cache.tags import canonical, field_names
from app.core.http.routing import Matcher, flat, route_path

# Half of the most keys that one worker remembers, and the longest path and query among them.
MAX_REMEMBERED = 4096
MAX_REMEMBERED_CHARS = 512


class ResponseKey(NamedTuple):
    """A GET in canonical form; `text` is the template of the route, its values and the query."""

    route: "KeyedRoute"
    text: str
    tags: tuple[str, ...]
    path: str
    query: bytes


class Route:
    """A route as the router matches it; `keyed` is None when its responses have no key."""

    def __init__(self, context: RouteContext, declared: Mapping[object, Declaration]) -> None:
        self.path: str = context.path or ""
        self.regex: re.Pattern[str] | None = getattr(context, "path_regex", None)
        self.convertors: Mapping[str, Convertor[Any]] = getattr(context, "param_convertors", {})
        # None for a route that may match any path.
        self.format = context.path_format if self.regex else None
        self.methods = context.methods
        policy = policy_of(context.endpoint) or no_store
        is_keyed = policy.ttl_s or policy.tags
        self.keyed = KeyedRoute(context, self, declared[context.endpoint]) if is_keyed else None

    def allows(self, method: str) -> bool:
        """Return whether the route answers the method; a mount answers all."""
        return not self.methods or method in self.methods


class KeyedRoute:
    """A route whose policy has a `ttl_s` or tags; TypeError if a tag names no parameter of it."""

    def __init__(self, context: RouteContext, matched: Route, declaration: Declaration) -> None:
        dependant: Dependant | None = getattr(context, "dependant", None)
        self.template = matched.path
        self.format: str = context.path_format or ""
        # For telemetry, which reads the whole path: an included route only knows its end.
        is_whole = getattr(context.route, "path", None) == matched.path
        self.labelled = context.route if is_whole else context
        self.declaration = declaration
        self.policy = declaration.policy
        self.vary = tuple(name.encode() for name in self.policy.vary)
        if dependant is None:
            raise TypeError(f"{self.template}: a key or tag needs a path operation of FastAPI")
        self._matched = matched
        # In the path, but perhaps no argument of the endpoint.
        self._in_path = {
            name: Parameter(name, [name], FieldInfo(annotation=str))
            for name in (matched.regex.groupindex if matched.regex else ())
        }
        # In the order of their declaration.
        self._in_query: list[Parameter] = []
        # API keys in the query: such a request has no key.
        self._secrets: set[str] = set()
        # Undeclared parameters matter (`extra` is forbid or allow): a request with one has no key.
        self._is_closed = False
        for owner in flat(dependant):
            for field in owner.path_params:
                self._in_path[field.alias] = Parameter(field.alias, [field.alias], field.field_info)
            for field in owner.query_params:
                self._in_query += query_parameters(field)
                model = model_of(field)
                if model and model.model_config.get("extra") in ("forbid", "allow"):
                    self._is_closed = True
            if isinstance(owner.call, APIKeyQuery):
                self._secrets.add(owner.call.model.name)
        self._names = {name for parameter in self._in_query for name in parameter.names}
        self._defaults = self._check_tags()
        self._tags = [(template, set(field_names(template))) for template in self.policy.tags]

    def key(self, path: str, query: bytes) -> ResponseKey:
        """Return the key of a GET, or raise NotCacheable when the application has to answer."""
        found = self._matched.regex.match(path) if self._matched.regex else None
        sent = found.groupdict() if found else {}
        values = {name: self._in_path[name].canonical(value) for name, value in sent.items()}
        if values != sent:
            path = self.format.format_map(
                {name: _as_sent(self._in_path[name], value) for name, value in sent.items()}
            )
        text = " ".join([self.template, *values.values()])
        pairs = []
        if query:
            by_name: dict[str, list[str]] = {}
            for name, value in parse_query(query):
                by_name.setdefault(name, []).append(value)
            is_unknown = self._is_closed and not self._names.issuperset(by_name)
            if is_unknown or not self._secrets.isdisjoint(by_name):
                raise NotCacheable
            for parameter in self._in_query:
                for name in parameter.names:
                    all_values = by_name.get(name, [])
                    # Of a parameter that does not repeat, the last value counts.
                    for value in all_values if parameter.repeats else all_values[-1:]:
                        pairs.append((name, _as_sent(parameter, value)))
                        if parameter.taggable:
                            values.setdefault(parameter.name, parameter.canonical(value))
        canonical_query = urlencode(pairs)
        if pairs:
            text = f"{text}?{canonical_query}"
        values = self._defaults | values
        # A tag without a value for each of its names is left out.
        tags = tuple(
            [
                template.format_map(values)
                for template, names in self._tags
                if names <= values.keys()
            ]
        )
        return ResponseKey(self, text, tags, path, canonical_query.encode())

    def _check_tags(self) -> dict[str, str]:
        """Return the defaults of the parameters in tags, in canonical form."""
        by_name = {parameter.name: parameter for parameter in self._in_query} | self._in_path
        defaults = {}
        for template in self.policy.tags:
            for name in field_names(template):
                parameter = by_name.get(name)
                named = f"{self.template}: the tag {template!r} names {name}, which is"
                if parameter is None:
                    raise TypeError(f"{named} no parameter of its path or query")
                if not parameter.taggable:
                    raise TypeError(f"{named} neither a UUID, an int, a str, an enum nor a Literal")
                if parameter.default not in (None, PydanticUndefined):
                    try:
                        defaults[name] = canonical(parameter.default)
                    except TypeError as error:
                        raise TypeError(f"{self.template}: {template!r}: {error}") from None
        return defaults


class RouteTable:
    """The routes of an application, which must be complete, for lookups before the router.

    Raises:
        TypeError: for a policy that cannot hold.
    """

    def __init__(self, app: FastAPI) -> None:
        # Two generations: a key of the older one is remembered again when it is asked for.
        self._keys: dict[tuple[str, bytes], ResponseKey] = {}
        self._old_keys: dict[tuple[str, bytes], ResponseKey] = {}
        declared = declarations(app)
        routes = [
            Route(context, declared)
            for context in iter_route_contexts(app.router.routes)
            if not isinstance(context.original_route, WebSocketRoute)
        ]
        self._matcher = Matcher((route.format, route.convertors, route) for route in routes)
        keyed = [route.keyed for route in routes if route.keyed]
        # Request headers that identify a client on some route.
        self.credentials = CREDENTIAL_HEADERS.union(
            *(each.credentials for each in declared.values())
        )
        # Request headers that some keyed route reads, as names in `vary` or credentials.
        self.headers = frozenset(
            name for route in keyed for name in (*route.vary, *route.declaration.credentials)
        )

    def look_up(self, scope: Scope) -> tuple[KeyedRoute | None, ResponseKey | None]:
        """Return the keyed route of a GET or HEAD, if any, and the key.

        The key is None when the application has to answer: a parameter is not valid, or unknown.
        """
        path, query = route_path(scope), scope["query_string"]
        is_get = scope["method"] == "GET"
        key = self._keys.get((path, query)) if is_get else None
        if key is None and is_get and (key := self._old_keys.get((path, query))) is not None:
            self._remember(path, query, key)
        if key is not None:
            return key.route, key
        found = self.find("GET", path)
        if found is None or found.keyed is None:
            return None, None
        if not is_get and self.find("HEAD", path) not in (found, None):
            # HEAD has a route of its own.
            return None, None
        try:
            return found.keyed, self.key(found.keyed, path, query)
        except NotCacheable:
            return found.keyed, None

    def find(self, method: str, path: str) -> Route | None:
        """Return the route that answers the request; None when there is none."""
        for route in self._matcher.candidates(path):
            if route.allows(method) and (route.regex is None or route.regex.match(path)):
                return route
        return None

    def key(self, route: KeyedRoute, path: str, query: bytes) -> ResponseKey:
        """Return the key of a GET and remember it; errors as from `KeyedRoute.key`."""
        key = route.key(path, query)
        if key.path != path:
            # The canonical path may belong to another route.
            canonical_route = self.find("GET", key.path)
            if canonical_route is None or canonical_route.keyed is not route:
                raise NotCacheable
        if len(path) + len(query) <= MAX_REMEMBERED_CHARS:
            self._remember(path, query, key)
        return key

    def _remember(self, path: str, query: bytes, key: ResponseKey) -> None:
        if len(self._keys) >= MAX_REMEMBERED:
            self._old_keys, self._keys = self._keys, {}
        self._keys[path, query] = key


def _as_sent(parameter: Parameter, value: str) -> str:
    """Return the value in the form in which the application receives it."""
    return value if parameter.validate is None else unquote(parameter.canonical(value))
