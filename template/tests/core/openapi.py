"""Requests made from the OpenAPI document: a valid one for each operation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4


@dataclass(frozen=True)
class Operation:
    """`parent` is the collection to which `/{id}` of the path belongs, if it has one."""

    method: str
    path: str
    body: Any
    query: dict[str, Any]

    @property
    def parent(self) -> str | None:
        match = re.match(r"(.+)/\{[^/]+\}", self.path)
        return match[1] if match else None

    def url(self, identifier: str | int | None) -> str:
        """The path with `identifier`, or an unknown one, in the place of its parameters."""
        text = str(uuid4() if identifier is None else identifier)
        return re.sub(r"\{[^/]+\}", lambda _: text, self.path)


def operations(document: dict[str, Any]) -> Iterator[Operation]:
    """Every operation, those that create things first."""
    order = ["post", "put", "patch", "get", "head", "options", "delete"]
    found = [
        Operation(method, path, _body(document, details), _query(document, details))
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    ]
    yield from sorted(found, key=lambda operation: order.index(operation.method))


def _body(document: dict[str, Any], details: dict[str, Any]) -> Any:
    content = details.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema")
    return None if schema is None else sample(document, schema)


def _query(document: dict[str, Any], details: dict[str, Any]) -> dict[str, Any]:
    return {
        parameter["name"]: sample(document, parameter["schema"])
        for parameter in details.get("parameters", [])
        if parameter["in"] == "query" and parameter.get("required")
    }


def sample(document: dict[str, Any], schema: dict[str, Any]) -> Any:
    """A value that the schema allows: its example, its default, or something of its type."""
    if "$ref" in schema:
        return sample(document, document["components"]["schemas"][schema["$ref"].split("/")[-1]])
    for key in ("examples", "enum"):
        if key in schema:
            return schema[key][0]
    for key in ("example", "const", "default"):
        if key in schema:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(document, schema[key][0])
    match schema.get("type"):
        case "object":
            required = schema.get("required", [])
            properties = schema.get("properties", {})
            return {name: sample(document, properties[name]) for name in required}
        case "array":
            return [sample(document, schema["items"])] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return True
        case _:
            return _string(schema)


def _string(schema: dict[str, Any]) -> str:
    known = {
        "uuid": str(uuid4()),
        "date": "2026-01-31",
        "date-time": "2026-01-31T12:00:00Z",
        "email": "somebody@example.com",
        "uri": "https://example.com/",
    }
    text = known.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", len(text) + 100)]
