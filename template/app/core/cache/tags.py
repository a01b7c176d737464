"""Tags: the same text from the parameters of a request and from the code that invalidates."""

from collections.abc import Mapping
from enum import Enum
from string import Formatter
from urllib.parse import quote
from uuid import UUID

# Allowed between the fields of a template, besides letters, digits and `_.-~`.
_SAFE = ":/*"


def tag(template: str, **values: object) -> str:
    """Fill a template: `tag("user:{user_id}", user_id=user.id)`.

    Raises:
        TypeError: when a value is missing, or has no canonical text.
        ValueError: when the template contains a value instead of a name in braces.
    """
    check_template(template)
    if missing := [name for name in field_names(template) if name not in values]:
        raise TypeError(f"tag {template!r}: the value of {missing[0]!r} is missing")
    return fill(template, values)


def fill(template: str, values: Mapping[str, object]) -> str:
    """Fill a template that was checked at its declaration."""
    return template.format_map({name: canonical(values[name]) for name in field_names(template)})


def check_template(template: str) -> None:
    """Raise ValueError for a template that no tag or key can be made from."""
    for text, name, form, conversion in Formatter().parse(template):
        if quote(text, safe=_SAFE) != text:
            raise ValueError(
                f"tags and keys: {template!r} contains a space, a comma or a character outside of "
                "ASCII: write values as names in braces"
            )
        if name is not None and (form or conversion or not name.isidentifier()):
            raise ValueError(f"tags and keys: {template!r} needs plain names in braces")


def field_names(template: str) -> list[str]:
    """Return the names in braces."""
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def canonical(value: object) -> str:
    """Return a UUID, int, str or enum of these as quoted text; TypeError for other values."""
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool) or not isinstance(value, (UUID, int, str)):
        raise TypeError(f"a tag contains UUID, int, str or enum, not {type(value).__name__}")
    return quote(str(int(value) if isinstance(value, int) else value), safe="")
