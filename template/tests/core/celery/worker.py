"""A Celery worker in a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

STOP_TIMEOUT_S = 20


@contextmanager
def job_worker(*command: str) -> Iterator[None]:
    """Run `python -m app worker`, or another command; fails if it does not stop cleanly."""
    process = subprocess.Popen([sys.executable, "-m", *(command or ("app", "worker"))])
    try:
        yield
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        process.wait()
