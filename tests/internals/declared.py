"""The declaration of the routes of these tests, in a service whose routes must have one."""

from contextlib import suppress
from importlib import import_module
from typing import Any

# Anybody may call.
ANYBODY: list[Any] = []
with suppress(ImportError, AttributeError):
    ANYBODY.append(import_module("app.core.security").public())


def somebody() -> dict[str, str]:
    """Return the headers of a caller with every scope, in a service whose routes need scopes."""
    headers: dict[str, str] = {}
    with suppress(ImportError):
        headers |= import_module("tests.core.callers").acting_as("developer")
    return headers
