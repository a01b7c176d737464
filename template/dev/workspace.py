"""A temporary directory for servers, which does not outlive the process that made it."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dev.guardian import guard


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a new directory, and remove it on exit."""
    path = Path(tempfile.mkdtemp(prefix="devservers-")).absolute()
    guard(path)
    # PostgreSQL refuses to run as root; the account that runs it must reach its data.
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)
