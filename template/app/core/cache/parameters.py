"""Parameters of routes as caches see them: the names in a request, and one canonical text."""

import re
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import parse_qsl, quote
from uuid import UUID

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from app.core.cache.tags import canonical

# Matches, by type, the texts that are canonical already: these need no validation and no quoting.
_CANONICAL: dict[Any, Callable[[str], object]] = {
    int: re.compile(r"0|[1-9][0-9]{0,17}", re.ASCII).fullmatch,
    str: re.compile(r"[A-Za-z0-9_.~-]*").fullmatch,
    UUID: re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch,
}


class NotCacheable(Exception):
    """The application has to answer: a parameter is not valid, or is not part of the key."""


class Parameter:
    """A declared parameter of the path or the query.

    Attributes:
        names: the aliases of the parameter, or its name.
        repeats: whether every value counts, and not only the last one.
        taggable: whether a tag may contain the value.
    """

    def __init__(self, name: str, names: list[str], info: FieldInfo) -> None:
        self.name = name
        self.names = names
        annotation = _without_none(info.annotation)
        self.repeats = get_origin(annotation) in (list, tuple, set, frozenset)
        self.taggable = _is_taggable(annotation)
        self.default = info.get_default(call_default_factory=False)
        is_plain = self.taggable and not info.metadata
        self._is_canonical = _CANONICAL.get(annotation) if is_plain else None
        # None where every text is valid.
        self.validate: Callable[[Any], Any] | None = None
        if self.taggable and (annotation is not str or info.metadata):
            # The alias is left out, because Pydantic accepts it only in models. `Annotated` needs a
            # second argument, also without metadata: None has no effect.
            declared: Any = Annotated[info.annotation, None, *info.metadata]
            self.validate = TypeAdapter(declared).validate_python

    def canonical(self, value: str) -> str:
        """Return the quoted form for keys and tags; NotCacheable if the value is not valid."""
        if self._is_canonical and self._is_canonical(value):
            return value
        if self.validate is None:
            return quote(value, safe="")
        try:
            return canonical(self.validate(value))
        except (ValidationError, TypeError):
            raise NotCacheable from None


def query_parameters(field: Any) -> list[Parameter]:
    """Return the parameters of one query field: its own, or those of its model."""
    model = model_of(field)
    if model is None:
        names = _aliases(field.field_info) or [field.alias]
        return [Parameter(field.name, names, field.field_info)]
    config = model.model_config
    by_name = config.get("validate_by_name") or config.get("populate_by_name")
    found = []
    for name, info in model.model_fields.items():
        names = _aliases(info)
        if by_name or not names:
            names = [*names, name]
        found.append(Parameter(name, list(dict.fromkeys(names)), info))
    return found


def model_of(field: Any) -> type[BaseModel] | None:
    """Return the model whose fields are the parameters, if there is one."""
    annotation = _without_none(field.field_info.annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return None


def parse_query(query: bytes) -> list[tuple[str, str]]:
    """Return names and values as Starlette reads them."""
    text = query.decode("latin-1")
    if "%" in text or "+" in text:
        return parse_qsl(text, keep_blank_values=True)
    return [(part.partition("=")[0], part.partition("=")[2]) for part in text.split("&") if part]


def _aliases(info: FieldInfo) -> list[str]:
    alias: Any = info.validation_alias or info.alias
    choices = getattr(alias, "choices", [alias] if alias else [])
    return [name if isinstance(name, str) else str(name.path[0]) for name in choices]


def _without_none(annotation: Any) -> Any:
    """Return `X` of `X | None`."""
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
