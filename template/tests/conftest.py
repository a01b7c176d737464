"""Your own fixtures; the line below brings servers, database and client."""

pytest_plugins = ["tests.core.plugin"]
