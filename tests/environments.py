"""Run uv in a rendered service, in the service's own environment."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.interpreters import oldest


def uv_program() -> str:
    """Return the uv beside this Python, or else the one on PATH."""
    program = shutil.which("uv", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if program is None:
        raise SystemExit('uv is missing: pip install "nox[uv]"')
    return program


def uv_environment(python: str) -> dict[str, str | None]:
    """Return the variables for uv with this interpreter; None for variables that must not be set."""
    return {
        "UV_PYTHON": python,
        "UV_PYTHON_DOWNLOADS": "never",
        # nox sets both to the environment of its session, which uv would make the service's.
        "VIRTUAL_ENV": None,
        "UV_PROJECT_ENVIRONMENT": None,
        # Every test starts processes of the service: compile once.
        "PYTHONDONTWRITEBYTECODE": None,
        # Colour would hide the line that counts the tests.
        "NO_COLOR": "1",
        "FORCE_COLOR": None,
    }


def run_uv(service: Path, *arguments: str, timeout_s: float, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run uv in the service, on the oldest Python that it supports."""
    environment = os.environ | uv_environment(oldest()) | variables
    return subprocess.run(
        [uv_program(), *arguments],
        cwd=service,
        env={name: value for name, value in environment.items() if value is not None},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
