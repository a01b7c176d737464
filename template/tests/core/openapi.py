"""Requests made from the OpenAPI document: a valid one for each operation."""

import re
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

Document = dict[str, Any]
Identifier = str | int

# The body of a media type; the picture has one pixel.
_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)
_BODIES = {"image/png": b64decode(_PNG)}


@dataclass(frozen=True)
class Operation:
    """A method of a path, as the document describes it."""

    method: str
    path: str
    details: dict[str, Any]
    document: Document

    @property
    def parent(self) -> str | None:
        """Return the path of the collection before `/{id}`, or None."""
        match = re.match(r"(.+)/\{[^/]+\}", self.path)
        return match[1] if match else None

    def url(self, identifier: Identifier | None) -> str:
        """Return the path with `identifier`, or an unknown one, in place of its parameters."""
        text = str(uuid4() if identifier is None else identifier)
        return re.sub(r"\{[^/]+\}", lambda _: text, self.path)

    def request(self, identifier: Identifier | None) -> dict[str, Any]:
        """Return the arguments of a valid request for the client; see `body` and `query`."""
        query = self.query(identifier)
        content = self.details.get("requestBody", {}).get("content", {})
        if not content or "application/json" in content:
            return {"json": self.body(identifier), "params": query}
        kind = next(iter(content))
        body = _BODIES.get(kind, b"text")
        return {"content": body, "headers": {"Content-Type": kind}, "params": query}

    def body(self, identifier: Identifier | None) -> Any:
        """Return a valid JSON body, or None; each UUID in it is `identifier`, if that is given."""
        content = self.details.get("requestBody", {}).get("content", {})
        schema = content.get("application/json", {}).get("schema")
        try:
            return None if schema is None else sample(self.document, schema, identifier)
        except RecursionError:  # a model that contains itself
            return None

    def query(self, identifier: Identifier | None) -> dict[str, Any]:
        """Return a valid value of each required query parameter."""
        return {
            parameter["name"]: sample(self.document, parameter["schema"], identifier)
            for parameter in self.details.get("parameters", [])
            if parameter["in"] == "query" and parameter.get("required")
        }

    def response_schema(self) -> dict[str, Any]:
        """Return the schema of a successful response, or an empty one."""
        for status, response in self.details["responses"].items():
            if status.startswith("2"):
                schema = response.get("content", {}).get("application/json", {}).get("schema", {})
                return resolved(self.document, schema)
        return {}


def operations(document: Document) -> Iterator[Operation]:
    """Yield every operation: first those that create things, last those that delete them."""
    order = ["post", "put", "patch", "get", "head", "options", "trace", "delete"]
    found = [
        Operation(method, path, details, document)
        for path, methods in document["paths"].items()
        for method, details in methods.items()
    ]
    yield from sorted(found, key=lambda operation: order.index(operation.method))


def resolved(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema, or the schema to which it refers."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
    return schema


def sample(document: Document, schema: dict[str, Any], identifier: Identifier | None) -> Any:
    """Return a value of the schema: its example, its default, or a value of its type."""
    schema = resolved(document, schema)
    for key in ("examples", "enum"):
        if key in schema:
            return schema[key][0]
    for key in ("example", "const", "default"):
        if key in schema:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return sample(document, schema[key][0], identifier)
    match schema.get("type"):
        case "object":
            required = schema.get("required", [])
            properties = schema.get("properties", {})
            return {name: sample(document, properties[name], identifier) for name in required}
        case "array":
            items = schema.get("items", {})
            return [sample(document, items, identifier)] * schema.get("minItems", 1)
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case "boolean":
            return True
        case _:
            return _string(schema, identifier)


def _string(schema: dict[str, Any], identifier: Identifier | None) -> str:
    known = {
        "uuid": str(uuid4() if identifier is None else identifier),
        "date": "2026-01-31",
        "date-time": "2026-01-31T12:00:00Z",
        "email": "somebody@example.com",
        "uri": "https://example.com/",
    }
    text = known.get(schema.get("format", ""), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength", len(text) + 100)]
