"""Requests made from the OpenAPI document: a valid one for each operation."""

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

Document = dict[str, Any]
Identifier = str | int

# A PNG with one pixel.
_PNG = b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR42mNgAAAAAgAB5Sfe/AAAAABJRU5ErkJggg=="
)


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
        text = str(identifier or uuid4())
        return re.sub(r"\{[^/]+\}", lambda _: text, self.path)

    def request(self, identifier: Identifier | None) -> dict[str, Any]:
        """Return the arguments of a valid request; each UUID in it is `identifier`, if given."""
        parameters = [each for each in self.details.get("parameters", []) if each.get("required")]
        query = {each["name"]: each["schema"] for each in parameters if each["in"] == "query"}
        make = Samples(self.document, identifier).of
        request: dict[str, Any] = {"params": {name: make(schema) for name, schema in query.items()}}
        content = self.details.get("requestBody", {}).get("content", {})
        if "application/json" in content:
            with suppress(RecursionError):  # a model that contains itself
                request["json"] = make(content["application/json"]["schema"])
            return request
        for kind in [*content][:1]:
            body = _PNG if kind == "image/png" else b"text"
            request |= {"content": body, "headers": {"Content-Type": kind}}
        return request

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


def identifier(content: bytes) -> Identifier | None:
    """Return the `id` of a thing, or of the first one in a list, if the body has one."""
    try:
        body = json.loads(content)
    except ValueError:
        return None
    things = body.get("items", [body]) if isinstance(body, dict) else body
    first = things[0] if isinstance(things, list) and things else None
    return first.get("id") if isinstance(first, dict) else None


def resolved(document: Document, schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema, or the schema to which it refers."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
    return schema


@dataclass(frozen=True)
class Samples:
    """Values of the schemas of a document; each UUID is `identifier`, if that is given."""

    document: Document
    identifier: Identifier | None

    def of(self, schema: dict[str, Any]) -> Any:
        """Return a value of the schema: its example, its default, or a value of its type."""
        schema = resolved(self.document, schema)
        for key in ("examples", "enum"):
            if key in schema:
                return schema[key][0]
        for key in ("example", "const", "default"):
            if key in schema:
                return schema[key]
        for key in ("anyOf", "oneOf", "allOf"):
            if key in schema:
                return self.of(schema[key][0])
        match schema.get("type"):
            case "object":
                properties = schema.get("properties", {})
                return {name: self.of(properties[name]) for name in schema.get("required", [])}
            case "array":
                return [self.of(schema.get("items", {}))] * schema.get("minItems", 1)
            case "integer" | "number":
                return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
            case "boolean":
                return True
        known = {
            "uuid": str(self.identifier or uuid4()),
            "date": "2026-01-31",
            "date-time": "2026-01-31T12:00:00Z",
            "email": "somebody@example.com",
            "uri": "https://example.com/",
        }
        text = known.get(schema.get("format", ""), "text")
        return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
