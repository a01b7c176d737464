"""Lists and other values of several parts in a variable of the environment."""

import json
import re
from typing import Any

from pydantic import ValidationError, ValidatorFunctionWrapHandler

# Errors of Pydantic for text where a list, set, tuple or sequence is expected.
_EXPECTED_LIST = {"list_type", "set_type", "frozen_set_type", "tuple_type", "sequence_str"}
# An IPv6 address at the start of `a,b`, which is no JSON.
_ADDRESS = re.compile(r"\[[\da-fA-F]*:[\da-fA-F:.]*\]")


def decoded(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Validate a field whose text may be JSON, or for a list also `a,b`; blanks are dropped.

    Only a text that the type of the field refuses is decoded, so every type works: `list[int]`,
    `set[str] | None`, a dictionary or a model.
    """
    try:
        result = validate(value)
    except ValidationError as error:
        if not isinstance(value, str):
            raise
        is_list = not _EXPECTED_LIST.isdisjoint(problem["type"] for problem in error.errors())
        if value.lstrip().startswith(("[", "{")) and not _ADDRESS.match(value.strip()):
            try:
                parts = json.loads(value)
            except ValueError:
                form = "`a,b` or a list in JSON" if is_list else "valid JSON"
                raise ValueError(f"expected {form}") from None
        elif is_list:
            parts = [part.strip() for part in value.split(",") if part.strip()]
        else:
            raise
        result = validate(parts)
    if isinstance(result, int | float) and abs(result) >= 2**63:
        raise ValueError("expected a number below 2**63")
    return result
