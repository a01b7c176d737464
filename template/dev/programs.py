"""Runs the service's own programs beside the servers of a workspace, and recorded like them."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from dev.processes import stop


def attached(home: Path, command: Sequence[str]) -> int:
    """Run a program on this terminal to its end; returns its exit code."""
    with _running(home, command, new_session=False) as process:
        # The terminal sends Ctrl-C to the program as well: it decides what that means, and we wait.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            code: int = process.wait()
        finally:
            signal.signal(signal.SIGINT, previous)
    return code


@contextmanager
def background(home: Path, command: Sequence[str]) -> Iterator[None]:
    """Run a program beside the block and out of reach of Ctrl-C; it is stopped at the end."""
    with _running(home, command, new_session=True):
        yield


@contextmanager
def _running(home: Path, command: Sequence[str], *, new_session: bool) -> Iterator[psutil.Popen]:
    try:
        process = psutil.Popen(command, start_new_session=new_session)
    except OSError as error:
        raise SystemExit(f"{command[0]}: {error.strerror}") from error
    try:
        record = home / f"program.{process.pid}.pid"
        record.write_text(f"{process.pid} {process.create_time()}")
        yield process
    finally:
        stop(process)
