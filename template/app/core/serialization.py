"""JSON bytes for what does not pass through Pydantic."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

JSON = "application/json"


def to_json(value: Any) -> bytes:
    """Rows of the prepared lane, dicts and lists as JSON, in the forms that Pydantic writes.

    Raises:
        TypeError: when there is a type in it that JSON has no one form for.
    """
    return orjson.dumps(value, default=_as_text, option=orjson.OPT_UTC_Z)


def _as_text(value: Any) -> str:
    # The driver's UUID is a subclass, which orjson refuses.
    if isinstance(value, UUID | Decimal):
        return str(value)
    raise TypeError  # orjson says which type
