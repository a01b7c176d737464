"""Programs of this service in processes of their own, as production runs them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx2

from dev.guardian import stop
from dev.processes import free_port, log_of, start, wait_until

ROOT = Path(__file__).parents[2]
STOP_TIMEOUT_S = 20


@contextmanager
def program(*arguments: str, is_ready: Callable[[str], bool], **variables: str) -> Iterator[None]:
    """Run `python -m ARGUMENTS` until the block ends.

    `is_ready` gets the log. Fails if the program does not start, or does not stop cleanly on
    SIGTERM; pytest then shows the log.
    """
    with TemporaryDirectory() as directory:
        home = Path(directory, "program")
        process = start([sys.executable, "-m", *arguments], home, cwd=ROOT, variables=variables)
        try:
            wait_until(lambda: is_ready(log_of(home).read_text()), process, home)
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
                return client.get("/livez").is_success
            except httpx2.TransportError:
                return False

        with program("app", "serve", is_ready=is_ready, **{"PORT": str(port)} | variables):
            yield client
