"""The routes of the application as caches see them: which one a path leads to, and which of its
parameters tell one response from another.

A path leads where the router would lead it: the first route that matches decides.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from urllib.parse import parse_qsl, quote, unquote, urlencode
from uuid import UUID

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security.api_key import APIKeyBase
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from starlette.routing import WebSocketRoute

from app.core.http_caching.policy import (
    CREDENTIALS,
    NEVER_STORED,
    Audience,
    Policy,
    policy_of,
)
from app.core.http_caching.tags import canonical
from app.core.http_caching.tags import fields as tag_fields

# Remembered targets of one worker, and the longest of their paths and queries.
MAX_TARGETS = 4096
MAX_TARGET_CHARS = 512
_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class NotCacheable(Exception):
    """The application itself has to answer: a parameter is wrong, or is not part of any key."""


class Target(NamedTuple):
    """What one path and query ask for, in canonical form."""

    route: "CachedRoute"
    # The route's template with the values, and the query: equal for requests that mean the same.
    key: str
    tags: tuple[str, ...]
    path: str
    query: bytes


class _Parameter:
    """A declared parameter: its names in a request, and its one form of text."""

    def __init__(self, name: str, names: list[str], info: FieldInfo) -> None:
        # Its name in the code, and those in requests.
        self.name = name
        self.names = names
        annotation = _without_none(info.annotation)
        self.repeats = get_origin(annotation) in (list, tuple, set, frozenset)
        self.taggable = _is_taggable(annotation)
        self.default = info.get_default(call_default_factory=False)
        self._is_uuid = annotation is UUID and not info.metadata
        self._validate: Callable[[Any], Any] | None = None
        if self.taggable and (annotation is not str or info.metadata):
            declared: Any = info.annotation
            self._validate = TypeAdapter(Annotated[declared, info]).validate_python

    def canonical(self, value: str) -> str:
        """The form in keys and tags: quoted.

        Raises:
            NotCacheable: when the application would refuse the value.
        """
        if self._validate is None:
            return quote(value, safe="")
        if self._is_uuid and _CANONICAL_UUID(value):
            return value
        try:
            return canonical(self._validate(value))
        except (ValidationError, TypeError):
            raise NotCacheable from None

    def sent(self, value: str) -> str:
        """The form in which the application gets it."""
        if self._validate is None:
            return value
        return unquote(self.canonical(value))


class CachedRoute:
    """A route with its policy."""

    def __init__(self, context: RouteContext) -> None:
        self.path: str = context.path or ""
        # For whoever asks for the route's path: that of an included route is only its end.
        same = getattr(context.route, "path", None) == self.path
        self.route = context.route if same else context
        self.regex: re.Pattern[str] | None = getattr(context, "path_regex", None)
        self.format: str = context.path_format or ""
        self.methods = context.methods
        self.declared = policy_of(context.endpoint)
        self.policy: Policy = self.declared or NEVER_STORED
        self.static = "{" not in self.path and isinstance(self.methods, set)
        self.parameters: dict[str, _Parameter] = {}
        self._by_name: dict[str, _Parameter] = {}
        self.query: list[_Parameter] = []
        # Whether parameters that are not declared are refused, or are part of the response.
        self.closed = False
        self.key_headers: set[bytes] = set()
        self.key_queries: set[str] = set()
        self.vary = tuple(name.encode() for name in self.policy.vary)
        dependant: Dependant | None = getattr(context, "dependant", None)
        if dependant is not None:
            self._read(dependant)
            self._check(dependant)
        elif self.declared is not None and self.declared.tags:
            raise TypeError(f"{self.path}: tags need a path operation of FastAPI")
        self.query_names = {name for parameter in self.query for name in parameter.names}

    def allows(self, method: str) -> bool:
        """Whether the route answers the method; a mount answers all."""
        return not self.methods or method in self.methods

    def target(self, path: str, query: bytes) -> Target:
        """What they ask of this route.

        Raises:
            NotCacheable: when the application has to answer by itself.
        """
        found = self.regex.match(path) if self.regex else None
        raw: dict[str, str] = found.groupdict() if found else {}
        values = {name: self.parameters[name].canonical(value) for name, value in raw.items()}
        key = " ".join([self.path, *values.values()])
        if query:
            pairs = self._pairs(query, values)
            canonical_query = urlencode(pairs).encode()
            if pairs:
                key = f"{key}?{canonical_query.decode()}"
        else:
            canonical_query = b""
        if raw:
            sent = {name: self.parameters[name].sent(value) for name, value in raw.items()}
            path = self.format.format_map(sent)
        return Target(self, key, self._tags(values), path, canonical_query)

    def _pairs(self, query: bytes, values: dict[str, str]) -> list[tuple[str, str]]:
        """The declared parameters in the order of their declaration."""
        sent: dict[str, list[str]] = {}
        for name, value in parse_query(query):
            sent.setdefault(name, []).append(value)
        if self.key_queries.intersection(sent):
            raise NotCacheable
        if self.closed and not self.query_names.issuperset(sent):
            raise NotCacheable
        pairs = []
        for parameter in self.query:
            for name in parameter.names:
                if name not in sent:
                    continue
                if parameter.repeats:
                    pairs += [(name, value) for value in sent[name]]
                else:
                    # The last one counts.
                    value = sent[name][-1]
                    pairs.append((name, parameter.sent(value)))
                    if parameter.taggable:
                        values.setdefault(parameter.name, parameter.canonical(value))
        return pairs

    def _tags(self, values: dict[str, str]) -> tuple[str, ...]:
        """Those whose fields all have a value."""
        if not self.policy.tags:
            return ()
        tags = []
        for template in self.policy.tags:
            fields = {}
            for name in tag_fields(template):
                if name in values:
                    fields[name] = values[name]
                elif (default := self._by_name[name].default) not in (None, PydanticUndefined):
                    fields[name] = canonical(default)
            if len(fields) == len(set(tag_fields(template))):
                tags.append(template.format_map(fields))
        return tuple(tags)

    def _read(self, dependant: Dependant) -> None:
        for owner in _flat(dependant):
            for field in owner.path_params:
                self.parameters[field.alias] = _Parameter(
                    field.alias, [field.alias], field.field_info
                )
            for field in owner.query_params:
                self._read_query(field)
            if isinstance(owner.call, APIKeyBase):
                name, where = str(owner.call.model.name), owner.call.model.in_.value
                if where == "header":
                    self.key_headers.add(name.lower().encode())
                elif where == "query":
                    self.key_queries.add(name)
        for name in self.regex.groupindex if self.regex else ():
            # Not an argument of the endpoint.
            self.parameters.setdefault(name, _Parameter(name, [name], FieldInfo(annotation=str)))
        self._by_name = {parameter.name: parameter for parameter in self.query} | self.parameters

    def _read_query(self, field: Any) -> None:
        model = _without_none(field.field_info.annotation)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            names = _aliases(field.field_info) or [field.alias]
            self.query.append(_Parameter(field.name, names, field.field_info))
            return
        config = model.model_config
        self.closed = self.closed or config.get("extra") in ("forbid", "allow")
        by_name = config.get("validate_by_name") or config.get("populate_by_name")
        for name, info in model.model_fields.items():
            names = _aliases(info)
            if by_name or not names:
                names = [*names, name]
            self.query.append(_Parameter(name, list(dict.fromkeys(names)), info))

    def _check(self, dependant: Dependant) -> None:
        """Raises TypeError for a declaration that cannot hold."""
        if self.policy.audience is not Audience.EVERYBODY:
            return
        for template in self.policy.tags:
            for name in tag_fields(template):
                parameter = self._by_name.get(name)
                if parameter is None:
                    raise TypeError(
                        f"{self.path}: the tag {template!r} names {name}, which is no parameter of "
                        "its path or query"
                    )
                if not parameter.taggable:
                    raise TypeError(
                        f"{self.path}: the tag {template!r} names {name}, which is neither a UUID, "
                        "an int, a str, an enum nor a Literal"
                    )
        if not self.policy.kept:
            return
        if "GET" not in (self.methods or ()):
            raise TypeError(f"{self.path}: only responses to GET are kept")
        known = {*self.policy.vary, *CREDENTIALS}
        for owner in _flat(dependant):
            for field in owner.header_params:
                name = field.alias.lower()
                annotation = _without_none(field.field_info.annotation)
                if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                    names = [item.replace("_", "-") for item in annotation.model_fields]
                else:
                    names = [name]
                for read in names:
                    if read not in known:
                        raise TypeError(f"{self.path}: reads the header {read}: name it in vary")


class Routes:
    """All routes; made on first use, because an application grows until it starts."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._compiled = False
        self._buckets: dict[str, list[CachedRoute]] = {}
        self._dynamic: list[CachedRoute] = []
        self._targets: dict[tuple[str, bytes], Target] = {}
        # Headers that carry the keys of the application's own security schemes.
        self.key_headers: frozenset[bytes] = frozenset()
        self.vary_headers: frozenset[bytes] = frozenset()

    def __iter__(self) -> Iterator[CachedRoute]:
        for context in iter_route_contexts(self._app.router.routes):
            if not isinstance(context.original_route, WebSocketRoute):
                yield CachedRoute(context)

    def compile(self) -> None:
        """Make what `find` needs; once.

        Raises:
            TypeError: when a declaration cannot hold, with the path of its route.
        """
        if self._compiled:
            return
        routes = list(self)
        firsts = {_first(route.path) for route in routes} - {None}
        self._buckets = {
            first: [route for route in routes if _first(route.path) in (first, None)]
            for first in firsts
            if first is not None
        }
        self._dynamic = [route for route in routes if _first(route.path) is None]
        self.key_headers = frozenset(name for route in routes for name in route.key_headers)
        self.vary_headers = frozenset(name for route in routes for name in route.vary)
        self._compiled = True

    def find(self, method: str, path: str) -> CachedRoute | None:
        """The route that answers the request; None when there is none."""
        if not self._compiled:
            self.compile()
        return self._first_match(method, path)

    def remembered(self, path: str, query: bytes) -> Target | None:
        """What `target` found lately."""
        return self._targets.get((path, query))

    def target(self, path: str, query: bytes) -> Target | None:
        """What a GET asks for, when its route is kept and its parameters have a canonical form."""
        route = self.find("GET", path)
        if route is None or not route.policy.kept:
            return None
        try:
            target = route.target(path, query)
        except NotCacheable:
            return None
        if target.path != path and self._first_match("GET", target.path) is not route:
            return None
        if len(path) + len(query) <= MAX_TARGET_CHARS:
            if len(self._targets) >= MAX_TARGETS:
                self._targets.clear()
            self._targets[path, query] = target
        return target

    def _first_match(self, method: str, path: str) -> CachedRoute | None:
        end = path.find("/", 1)
        first = path[1:] if end < 0 else path[1:end]
        # The end of a pattern matches before a line feed as well.
        plain = "\n" not in path
        for route in self._buckets.get(first, self._dynamic):
            if route.static and plain:
                if route.path != path:
                    continue
            elif route.regex is not None and route.regex.match(path) is None:
                continue
            if route.allows(method):
                return route
        return None


def route_path(scope: Any) -> str:
    """The path below the application's root, as the router takes it."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if root and path.startswith(root) and path[len(root) : len(root) + 1] in ("", "/"):
        return path[len(root) :]
    return path


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """Names and values, as Starlette reads them."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    return [(part.partition("=")[0], part.partition("=")[2]) for part in text.split("&") if part]


def _first(path: str) -> str | None:
    """The first segment, or None when it is not the same for all paths of the route."""
    segment = path[1:].partition("/")[0]
    # A mount at the root has an empty path.
    return None if not path or "{" in segment else segment


def _flat(dependant: Dependant) -> Iterator[Dependant]:
    yield dependant
    for dependency in dependant.dependencies:
        yield from _flat(dependency)


def _aliases(info: FieldInfo) -> list[str]:
    choices = info.validation_alias or info.alias
    if choices is None:
        return []
    if isinstance(choices, str):
        return [choices]
    names = getattr(choices, "choices", [choices])
    return [name if isinstance(name, str) else str(name.path[0]) for name in names]


def _without_none(annotation: Any) -> Any:
    """`X` of `X | None`."""
    if get_origin(annotation) is Annotated:
        return _without_none(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return _without_none(kinds[0]) if len(kinds) == 1 else annotation
    return annotation


def _is_taggable(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return all(type(value) in (str, int) for value in get_args(annotation))
    if not isinstance(annotation, type):
        return False
    if issubclass(annotation, Enum):
        return all(type(item.value) in (str, int, UUID) for item in annotation)
    return issubclass(annotation, (UUID, int, str)) and annotation is not bool
