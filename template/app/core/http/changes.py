"""Bodies of PATCH requests."""

from typing import Any

from pydantic import BaseModel, ConfigDict


def _without_defaults(schema: dict[str, Any]) -> None:
    for field in schema.get("properties", {}).values():
        field.pop("default", None)


class Changes(BaseModel):
    """Fields of which only those that are sent are changed.

    Give each field a default: it is never used and not published. Null is refused where the type
    does not allow it.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra=_without_defaults)

    def sent(self) -> dict[str, Any]:
        """The fields that the request has."""
        return self.model_dump(exclude_unset=True)
