"""Callers for tests: each is a subject of the issuer of the tests, with scopes."""

from collections.abc import Collection
from functools import cache

from fastapi.routing import iter_route_contexts

from app.core.security.declarations import scopes_of
from dev.issuer import token

# The caller of the fixture `client`.
CALLER = "developer"


def acting_as(subject: str, scopes: Collection[str] | None = None) -> dict[str, str]:
    """Return the headers of requests of this subject; without `scopes`, it has all of them.

    For example, `await client.get("/users/owner/me", headers=acting_as("grace"))`.
    """
    chosen = every_scope() if scopes is None else scopes
    return {"Authorization": f"Bearer {token(subject, chosen)}"}


@cache
def every_scope() -> frozenset[str]:
    """Return the scopes that the routes of the application declare."""
    from app.main import app

    found = [scopes_of(route) or () for route in iter_route_contexts(app.router.routes)]
    return frozenset().union(*found)
