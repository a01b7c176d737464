"""A Celery worker in a process of its own."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


@contextmanager
def job_worker(*command: str) -> Iterator[None]:
    """Run `python -m app worker`, or another command; it must start and stop cleanly."""
    with NamedTemporaryFile(prefix="job-worker-") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *(command or ("app", "worker"))],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            _wait(Path(log.name), process)
            yield
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0
        finally:
            process.kill()
            process.wait()
            # Shown by pytest when the test fails.
            print(Path(log.name).read_text())


def _wait(log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while " ready." not in log.read_text():
        assert process.poll() is None, "the worker ended"
        assert time.monotonic() < deadline, "the worker did not start in time"
        time.sleep(0.05)
