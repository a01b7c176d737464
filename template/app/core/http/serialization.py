"""Bytes: JSON for values that do not pass through Pydantic, such as prepared rows, and headers."""

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson
from fastapi import Response
from pydantic_core import to_json, to_jsonable_python

JSON = "application/json"

_TEXT = (UUID, Decimal)


def json_response(
    value: Any, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return a response with `value` as JSON; for values and errors, see `json_bytes`."""
    return Response(json_bytes(value), status_code, headers, JSON)


def json_bytes(value: Any) -> bytes:
    """Return rows, models, dicts and lists as JSON, in the forms that Pydantic writes.

    Raises:
        PydanticSerializationError: when a type has no form in JSON.
    """
    try:
        return orjson.dumps(value, default=_as_plain, option=orjson.OPT_UTC_Z)
    except TypeError:
        # Pydantic is seven times slower, but writes integers of more than 64 bits.
        return to_json(value, inf_nan_mode="null")


def lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return header fields as HTTP/1.1 writes them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def _as_plain(value: Any) -> Any:
    # The driver's UUID is a subclass, which orjson refuses.
    return str(value) if isinstance(value, _TEXT) else to_jsonable_python(value)
