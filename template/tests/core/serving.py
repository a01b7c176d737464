"""The service as production runs it: `python -m app serve` in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2

from dev.serving import free_port

START_TIMEOUT_S = 20
STOP_TIMEOUT_S = 20


@contextmanager
def serving(**variables: str) -> Iterator[httpx2.Client]:
    """Serve with two workers, on the servers of this run unless `variables` say otherwise.

    Yields a client. Fails if the service does not start, or does not stop cleanly when told to.
    """
    port = free_port()
    environment = os.environ | {"PORT": str(port), "WEB_CONCURRENCY": "2"} | variables
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "serve"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            _wait(client, process)
            yield client
        process.terminate()
        assert process.wait(STOP_TIMEOUT_S) == 0
    finally:
        process.kill()
        output, _ = process.communicate()
        # Shown by pytest when the test fails.
        print(output.decode())


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
