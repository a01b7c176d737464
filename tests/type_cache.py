"""Lend mypy's cache of one rendered service to the next ones, which have the same packages.

mypy compares the hash of each file with the one in its cache, whatever the path of the file. So it finds the same
errors, and reads only those files anew that differ: 2.5 s of CPU time in place of 12 s.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.rendering import ROOT

KEPT = ROOT / ".nox" / "mypy-cache"


def lend(service: Path, kept: Path = KEPT) -> None:
    """Copy the kept cache into a service with an environment; do nothing if there is none for its version of mypy."""
    version = mypy_version(service)
    if version and (kept / version).is_dir():
        shutil.copytree(kept / version, service / ".mypy_cache", dirs_exist_ok=True)


def keep(service: Path, kept: Path = KEPT) -> None:
    """Keep the cache of a service whose types were checked, unless one of this version is there already."""
    version, cache = mypy_version(service), service / ".mypy_cache"
    if not version or not cache.is_dir() or (kept / version).exists():
        return
    kept.mkdir(parents=True, exist_ok=True)
    copy = Path(tempfile.mkdtemp(dir=kept))
    shutil.copytree(cache, copy, dirs_exist_ok=True)
    # Other sessions read at the same time: they see all of the cache or nothing. The first of two sessions wins.
    with suppress(OSError):
        copy.rename(kept / version)
    shutil.rmtree(copy, ignore_errors=True)


def mypy_version(service: Path) -> str:
    """Return the name of mypy's metadata in the service's environment; an empty string if there is none there."""
    return next((path.name for path in service.glob(".venv/lib/python*/site-packages/mypy-*.dist-info")), "")
