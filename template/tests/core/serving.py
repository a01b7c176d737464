"""Programs of this service in processes of their own, as production runs them."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from dev.guardian import stop
from dev.processes import free_port, log_of, start

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20


@contextmanager
def program(*arguments: str, is_ready: Callable[[str], bool], **variables: str) -> Iterator[None]:
    """Run `python -m ARGUMENTS` until the block ends.

    `is_ready` gets the log. Fails if the program does not start, or does not stop cleanly on
    SIGTERM; pytest then shows the log.
    """
    with TemporaryDirectory() as directory:
        home = Path(directory, "program")
        command = [sys.executable, "-m", *arguments]
        process = start(command, home, cwd=ROOT, variables=variables)
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not is_ready(log_of(home).read_text()):
                assert process.poll() is None, "the program ended"
                assert time.monotonic() < deadline, "the program did not start in time"
                time.sleep(0.05)
            yield
            process.terminate()
            assert process.wait(STOP_TIMEOUT_S) == 0
        finally:
            stop(process)
            print(log_of(home).read_text())


@contextmanager
def serving(**variables: str) -> Iterator[httpx2.Client]:
    """Serve with two workers, on the servers of this run unless `variables` say otherwise.

    Yields a client. Fails if the service does not start or stop cleanly.
    """
    port = free_port()
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:

        def is_ready(_log: str) -> bool:
            try:
                client.get("/livez").raise_for_status()
            except httpx2.TransportError:
                return False
            return True

        with program("app", "serve", is_ready=is_ready, **{"PORT": str(port)} | variables):
            yield client
