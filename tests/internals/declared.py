"""The declaration of the routes of these tests, in a service whose routes must have one."""

from contextlib import suppress
from importlib import import_module
from typing import Any

# Anybody may call.
ANYBODY: list[Any] = []
with suppress(ImportError, AttributeError):
    ANYBODY.append(import_module("app.core.security").public())
