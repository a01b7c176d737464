"""The routes of the application as caches see them: which one a path leads to, and which tags the
parameters of a request give its response.

A path leads where the router would lead it: the first route that matches decides.
"""

import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl, quote
from uuid import UUID

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts
from fastapi.security import APIKeyHeader
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

_CANONICAL_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


class NotCacheable(Exception):
    """The application itself has to answer: a parameter is wrong, or is no part of a response."""


class Parameter:
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
        # None where every text is a value.
        self.validate: Callable[[Any], Any] | None = None
        if self.taggable and (annotation is not str or info.metadata):
            declared: Any = info.annotation
            self.validate = TypeAdapter(Annotated[declared, info]).validate_python

    def canonical(self, value: str) -> str:
        """The form in keys and tags: quoted.

        Raises:
            NotCacheable: when the application would refuse the value.
        """
        if self.validate is None:
            return quote(value, safe="")
        if self._is_uuid and _CANONICAL_UUID(value):
            return value
        try:
            return canonical(self.validate(value))
        except (ValidationError, TypeError):
            raise NotCacheable from None


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
        # Of the path, by name; and of the query, in the order of their declaration.
        self.parameters: dict[str, Parameter] = {}
        self.query: list[Parameter] = []
        self._by_name: dict[str, Parameter] = {}
        self.key_headers: set[bytes] = set()
        self.vary = tuple(name.encode() for name in self.policy.vary)
        self.dependant: Dependant | None = getattr(context, "dependant", None)
        if self.dependant is not None:
            self._read(self.dependant)
            self._check(self.dependant)
        elif self.declared is not None and self.declared.tags:
            raise TypeError(f"{self.path}: tags need a path operation of FastAPI")

    def allows(self, method: str) -> bool:
        """Whether the route answers the method; a mount answers all."""
        return not self.methods or method in self.methods

    def in_path(self, path: str) -> dict[str, str]:
        """The parameters of the path by name, as they are sent."""
        found = self.regex.match(path) if self.regex else None
        return found.groupdict() if found else {}

    def in_query(self, query: bytes) -> Iterator[tuple[Parameter, str, str]]:
        """The declared parameters in their order, each with a name and a value as sent."""
        sent: dict[str, list[str]] = {}
        for name, value in parse_query(query):
            sent.setdefault(name, []).append(value)
        for parameter in self.query:
            for name in parameter.names:
                values = sent.get(name, [])
                # Where one is wanted, the last one counts.
                for value in values if parameter.repeats else values[-1:]:
                    yield parameter, name, value

    def tags(self, path: str, query: bytes) -> tuple[str, ...]:
        """The policy's tags for a request; those with a field that has no value are left out.

        Raises:
            NotCacheable: when the application would refuse a value.
        """
        values = {
            name: self.parameters[name].canonical(value)
            for name, value in self.in_path(path).items()
        }
        for parameter, _, value in self.in_query(query):
            if parameter.taggable:
                values.setdefault(parameter.name, parameter.canonical(value))
        tags = []
        for template in self.policy.tags:
            names = tag_fields(template)
            for name in names:
                default = self._by_name[name].default
                if name not in values and default not in (None, PydanticUndefined):
                    values[name] = canonical(default)
            if values.keys() >= set(names):
                tags.append(template.format_map(values))
        return tuple(tags)

    def _read(self, dependant: Dependant) -> None:
        for owner in flat(dependant):
            for field in owner.path_params:
                self.parameters[field.alias] = Parameter(
                    field.alias, [field.alias], field.field_info
                )
            for field in owner.query_params:
                self._read_query(field)
            if isinstance(owner.call, APIKeyHeader):
                self.key_headers.add(owner.call.model.name.lower().encode())
        for name in self.regex.groupindex if self.regex else ():
            # Not an argument of the endpoint.
            self.parameters.setdefault(name, Parameter(name, [name], FieldInfo(annotation=str)))
        self._by_name = {parameter.name: parameter for parameter in self.query} | self.parameters

    def _read_query(self, field: Any) -> None:
        model = model_of(field)
        if model is None:
            names = _aliases(field.field_info) or [field.alias]
            self.query.append(Parameter(field.name, names, field.field_info))
            return
        config = model.model_config
        by_name = config.get("validate_by_name") or config.get("populate_by_name")
        for name, info in model.model_fields.items():
            names = _aliases(info)
            if by_name or not names:
                names = [*names, name]
            self.query.append(Parameter(name, list(dict.fromkeys(names)), info))

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
        if "GET" not in (self.methods or ()):
            raise TypeError(f"{self.path}: only responses to GET are public")
        known = {*self.policy.vary, *CREDENTIALS}
        for owner in flat(dependant):
            for field in owner.header_params:
                if (model := model_of(field)) is not None:
                    names = [item.replace("_", "-") for item in model.model_fields]
                else:
                    names = [field.alias.lower()]
                for read in names:
                    if read not in known:
                        raise TypeError(f"{self.path}: reads the header {read}: name it in vary")


class Routes:
    """All routes; made on first use, because an application grows until it starts."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        # None until they are compiled.
        self._routes: list[CachedRoute] | None = None
        self._buckets: dict[str, list[CachedRoute]] = {}
        self._dynamic: list[CachedRoute] = []
        # Headers that carry the keys of the application's own security schemes.
        self.key_headers: frozenset[bytes] = frozenset()

    def __iter__(self) -> Iterator[CachedRoute]:
        for context in iter_route_contexts(self._app.router.routes):
            if not isinstance(context.original_route, WebSocketRoute):
                yield CachedRoute(context)

    def compile(self) -> None:
        """Make what `find` needs; once.

        Raises:
            TypeError: when a declaration cannot hold, with the path of its route.
        """
        if self._routes is not None:
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
        self._routes = routes

    def find(self, method: str, path: str) -> CachedRoute | None:
        """The route that answers the request; None when there is none."""
        if self._routes is None:
            self.compile()
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


def flat(dependant: Dependant) -> Iterator[Dependant]:
    """All that an endpoint depends on, itself first."""
    yield dependant
    for dependency in dependant.dependencies:
        yield from flat(dependency)


def model_of(field: Any) -> type[BaseModel] | None:
    """The model whose fields are the parameters, where there is one."""
    annotation = _without_none(field.field_info.annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


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
