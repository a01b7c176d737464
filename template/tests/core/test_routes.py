"""Every GET declares its caching, and every list is bounded."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.core.cache.policy import policy_of
from tests.core.openapi import Document, Operation, operations, resolved


def without_policy(app: FastAPI) -> list[str]:
    """Return the documented paths of GET whose endpoint declares no caching policy."""
    return [
        route.path or ""
        for route in iter_route_contexts(app.router.routes)
        if "GET" in (route.methods or ())
        and getattr(route.original_route, "include_in_schema", False)
        and policy_of(route.endpoint) is None
    ]


def without_bound(document: Document) -> list[str]:
    """Return the paths of GET whose response may have any number of items.

    A list is a response that is an array, or an array in a response: `items`, or objects if the
    path does not end with the parameter of one object. It is bounded by a query parameter `limit`
    with a maximum, or by `maxItems` in its own schema.
    """
    return [
        operation.path
        for operation in operations(document)
        if operation.method == "get"
        and any("maxItems" not in each for each in _lists(operation))
        and not any(each.keys() & {"maximum", "exclusiveMaximum"} for each in _limits(operation))
    ]


def _lists(operation: Operation) -> Iterator[dict[str, Any]]:
    """Yield the schemas of the lists in the response."""
    response = operation.response_schema()
    if response.get("type") == "array":
        yield response
    for name, value in response.get("properties", {}).items():
        for schema in _options(operation, value):
            item = resolved(operation.document, schema.get("items", {}))
            of_objects = item.get("type") == "object" and not operation.path.endswith("}")
            if schema.get("type") == "array" and (name == "items" or of_objects):
                yield schema


def _limits(operation: Operation) -> Iterator[dict[str, Any]]:
    """Yield the schemas that the query parameter `limit` may have."""
    for parameter in operation.details.get("parameters", []):
        if parameter["in"] == "query" and parameter["name"] == "limit":
            yield from _options(operation, parameter["schema"])


def _options(operation: Operation, schema: dict[str, Any]) -> list[dict[str, Any]]:
    schema = resolved(operation.document, schema)
    return [resolved(operation.document, each) for each in [schema, *schema.get("anyOf", [])]]


async def test_every_get_declares_its_caching(app: FastAPI) -> None:
    paths = ", ".join(without_policy(app))

    assert not paths, f"decorate with @public, @private or @no_store: {paths}"


@pytest.mark.filterwarnings("ignore:Duplicate Operation ID")  # a route with several methods
async def test_every_list_is_bounded(app: FastAPI) -> None:
    paths = ", ".join(without_bound(app.openapi()))

    assert not paths, (
        f"these routes may send any number of items: {paths}; take PageParams, or a query "
        "parameter `limit` with a maximum (`le=100`), or give the list of the response model a "
        "max_length"
    )
