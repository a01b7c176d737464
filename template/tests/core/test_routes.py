"""Every GET says what caches may do, and no list is without a bound."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.core.cache.policy import policy_of
from tests.core.openapi import Document, Operation, operations, resolved


def without_policy(app: FastAPI) -> list[str]:
    """The documented routes of GET whose endpoint declares no caching policy."""
    return [
        route.path or ""
        for route in iter_route_contexts(app.router.routes)
        if "GET" in (route.methods or ())
        and getattr(route.original_route, "include_in_schema", False)
        and policy_of(route.endpoint) is None
    ]


def without_bound(document: Document) -> list[str]:
    """The routes of GET that answer with any number of items.

    A list is an array, or an object with an array `items`. It is bounded by a query parameter
    `limit` with a maximum, or by `maxItems` in its own schema.
    """
    return [
        operation.path
        for operation in operations(document)
        if operation.method == "get" and _is_unbounded(operation)
    ]


def _is_unbounded(operation: Operation) -> bool:
    schema = operation.response_schema()
    if schema.get("type") == "object":
        items = schema.get("properties", {}).get("items", {})
        schema = resolved(operation.document, items)
    if schema.get("type") != "array" or "maxItems" in schema:
        return False
    return not any(limit.keys() & {"maximum", "exclusiveMaximum"} for limit in _limits(operation))


def _limits(operation: Operation) -> Iterator[dict[str, object]]:
    """The schemas that the query parameter `limit` may have."""
    for parameter in operation.details.get("parameters", []):
        if parameter["in"] == "query" and parameter["name"] == "limit":
            schema = resolved(operation.document, parameter["schema"])
            yield schema
            yield from schema.get("anyOf", [])


async def test_every_get_declares_its_caching(app: FastAPI) -> None:
    paths = ", ".join(without_policy(app))

    assert not paths, f"decorate with @public, @private or @no_store: {paths}"


async def test_every_list_is_bounded(app: FastAPI) -> None:
    paths = ", ".join(without_bound(app.openapi()))

    assert not paths, (
        f"any number of items is sent by {paths}: take PageParams, or a query parameter `limit` "
        "with a maximum (`le=100`), or give the list of the response model a max_length"
    )
