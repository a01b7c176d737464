"""Runs the service's own programs beside the servers of a workspace, and recorded like them."""

import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil

from dev.processes import stop

_POLL_S = 0.2


def attached(home: Path, *commands: Sequence[str]) -> int:
    """Run programs on this terminal until one of them ends; returns its exit code."""
    with ExitStack() as stack:
        programs = [stack.enter_context(_running(home, command)) for command in commands]
        # The terminal sends Ctrl-C to the programs as well: they decide what it means, and we wait.
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
        stack.callback(signal.signal, signal.SIGINT, previous)
        while True:
            ended, _ = psutil.wait_procs(programs, timeout=_POLL_S)
            if ended:
                code: int = ended[0].returncode
                # As shells do: 128 and the signal that ended it.
                return code if code >= 0 else 128 - code


@contextmanager
def _running(home: Path, command: Sequence[str]) -> Iterator[psutil.Popen]:
    try:
        process = psutil.Popen(command)
    except OSError as error:
        raise SystemExit(f"{command[0]}: {error.strerror}") from error
    try:
        record = home / f"program.{process.pid}.pid"
        record.write_text(f"{process.pid} {process.create_time()}")
        yield process
    finally:
        stop(process)
