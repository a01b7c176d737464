"""Tags of responses: the same text from a request's path and from the code that invalidates."""

from collections.abc import Mapping
from enum import Enum
from string import Formatter
from urllib.parse import quote
from uuid import UUID

# Between the fields of a tag, besides letters, digits, `_.-~`.
SAFE = ":/*"


def tag(template: str, **values: object) -> str:
    """`tag("user:{user_id}", user_id=user.id)`: what the route of that user declares.

    Raises:
        TypeError: when a value is missing, or has no one textual form.
        ValueError: when something is written into the template that belongs in braces.
    """
    check(template)
    if missing := [name for name in fields(template) if name not in values]:
        raise TypeError(f"tag {template!r}: the value of {missing[0]!r} is missing")
    return filled(template, values)


def filled(template: str, values: Mapping[str, object]) -> str:
    """`tag` for a template that was checked when it was declared."""
    return template.format_map({name: canonical(values[name]) for name in fields(template)})


def check(template: str) -> None:
    """Raises ValueError for what no tag or key can be declared as."""
    for text, name, form, conversion in Formatter().parse(template):
        if quote(text, safe=SAFE) != text:
            raise ValueError(
                f"tags and keys: {template!r} has a space, a comma, no ASCII or the like in it: "
                "write it with the names of its values in braces"
            )
        if name is not None and (form or conversion or not name.isidentifier()):
            raise ValueError(f"tags and keys: {template!r} needs plain names in braces")


def fields(template: str) -> list[str]:
    """The names in braces."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def canonical(value: object) -> str:
    """A parameter's value as text, quoted so that it cannot look like the border between two.

    Raises:
        TypeError: when it is neither a UUID, an int, a str nor an enum of these.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, bool):
        raise TypeError("a bool is no part of a tag")
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, str):
        return quote(value, safe="")
    raise TypeError(f"{type(value).__name__} is no part of a tag: UUID, int, str and enums are")
