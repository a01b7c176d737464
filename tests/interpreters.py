"""Find the Python interpreters of this machine.

uv finds most of them by itself, but not those of pyenv, whose shims fail for versions that are not selected.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

OLDEST_MINOR = 11
_VERSION = "import sys; v = sys.version_info; print(v[1] if v[0] == 3 and v.releaselevel == 'final' else -1)"


@cache
def interpreters() -> dict[int, str]:
    """Return a working, released CPython for each minor version that a service supports."""
    found: dict[int, str] = {sys.version_info.minor: sys.executable}
    for path in _candidates():
        minor = _minor(path)
        if minor >= OLDEST_MINOR:
            found.setdefault(minor, path)
    return found


def oldest() -> str:
    """Return the oldest interpreter that is supported and installed."""
    return interpreters()[min(interpreters())]


def newest() -> str:
    """Return the newest interpreter that is installed."""
    return interpreters()[max(interpreters())]


def _candidates() -> Iterator[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for minor in range(OLDEST_MINOR, OLDEST_MINOR + 10):
        if path := shutil.which(f"python3.{minor}"):
            yield path
        # Its directory may be another user's.
        with suppress(OSError):
            yield from map(str, sorted(pyenv.glob(f"3.{minor}.*/bin/python3.{minor}")))


def _minor(path: str) -> int:
    try:
        process = subprocess.run([path, "-c", _VERSION], capture_output=True, text=True, timeout=10, check=True)
        return int(process.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return -1
