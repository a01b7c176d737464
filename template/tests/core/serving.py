"""The service as production runs it: `python -m app serve` in a process of its own."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

import httpx2

from dev.processes import free_port

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


@contextmanager
def serving(**variables: str) -> Iterator[httpx2.Client]:
    """Serve with two workers, on the servers of this run unless `variables` say otherwise.

    Yields a client. Fails if the service does not start, or does not stop cleanly when told to.
    """
    port = free_port()
    environment = os.environ | {"PORT": str(port), "WEB_CONCURRENCY": "2"} | variables
    with NamedTemporaryFile(prefix="serving-") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app", "serve"],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
                _wait(client, process)
                yield client
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0
        finally:
            # When the test failed: the workers as well, which would outlive their master.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            # Shown by pytest when the test fails.
            print(Path(log.name).read_text())


def _wait(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            client.get("/livez").raise_for_status()
            return
        except httpx2.TransportError:
            assert process.poll() is None, "the service ended"
            assert time.monotonic() < deadline, "the service did not start in time"
            time.sleep(0.05)
