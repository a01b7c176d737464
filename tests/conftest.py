"""Fixtures for the tests of the template."""

from pathlib import Path

import pytest

from tests.rendering import snapshot


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the template as it lies in the working tree; read only, and rendered from its HEAD."""
    return snapshot(tmp_path_factory.mktemp("template"))
