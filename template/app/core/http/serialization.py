"""JSON bytes for what does not pass through Pydantic."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

JSON = "application/json"

_TEXT = (UUID, Decimal)


def to_json(value: Any) -> bytes:
    """Rows of the prepared lane, models, dicts and lists as JSON, in the forms of Pydantic.

    Raises:
        TypeError: when there is a type in it that JSON has no one form for.
    """
    return orjson.dumps(value, default=_as_plain, option=orjson.OPT_UTC_Z)


def _as_plain(value: Any) -> Any:
    # The driver's UUID is a subclass, which orjson refuses.
    if isinstance(value, _TEXT):
        return str(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError  # orjson says which type
