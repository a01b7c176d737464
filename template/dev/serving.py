"""Runs a server on a free port of the loopback interface for as long as a block of code lasts.

Another process may take a port between our finding and using it: then it is tried with another.
"""

import pwd
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from dev.processes import TIMEOUT_S, StartFailed, start, stop

_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
_POLL_S = 0.01


@contextmanager
def serve(
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[int], bool],
    home: Path,
    account: pwd.struct_passwd | None = None,
) -> Iterator[int]:
    """Run the server `command(port)` in `home`; yields the port once `is_ready(port)`.

    Raises StartFailed, with the end of the server's log, if it dies or is not ready in time.
    """
    with ExitStack() as running:
        for attempt in range(1, _ATTEMPTS + 1):
            port = free_port()
            server = _server(command(port), partial(is_ready, port), home, account)
            try:
                running.enter_context(server)
                break
            except StartFailed as failure:
                if attempt == _ATTEMPTS or _PORT_TAKEN not in str(failure):
                    raise
        yield port


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def _server(
    command: Sequence[str],
    is_ready: Callable[[], bool],
    home: Path,
    account: pwd.struct_passwd | None,
) -> Iterator[None]:
    process = start(command, home, account)
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_ready():
            exit_code = process.poll()
            if exit_code is not None:
                raise StartFailed(command[0], f"ended with exit code {exit_code}", home)
            if time.monotonic() > deadline:
                raise StartFailed(command[0], f"was not ready in {TIMEOUT_S:.0f} s", home)
            time.sleep(_POLL_S)
        yield
    finally:
        stop(process)
