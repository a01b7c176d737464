"""Run programs of the service beside the servers of a workspace, and record them alike."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

import psutil

from dev.processes import stop

_POLL_S = 0.2


def attached(home: Path, *commands: Sequence[str], patience_s: float = math.inf) -> int:
    """Run programs on this terminal until one of them ends; returns its exit code.

    Ctrl-C reaches the programs as well: they decide what it means. `patience_s` seconds later those
    that still run are stopped, and the exit code is 130.
    """
    deadline = math.inf

    def interrupted(_signum: int, _frame: FrameType | None) -> None:
        nonlocal deadline
        deadline = min(deadline, time.monotonic() + patience_s)

    with ExitStack() as stack:
        previous = signal.getsignal(signal.SIGINT)
        if previous is not signal.SIG_IGN:  # a background job, for which Ctrl-C is not meant
            # A function, which a program does not inherit: it starts with the default.
            signal.signal(signal.SIGINT, interrupted)
            stack.callback(signal.signal, signal.SIGINT, previous)
        programs = [stack.enter_context(_running(home, command)) for command in commands]
        while time.monotonic() < deadline:
            ended, _ = psutil.wait_procs(programs, timeout=_POLL_S)
            if ended:
                code: int = ended[0].returncode
                # As shells do: 128 and the signal that ended it.
                return code if code >= 0 else 128 - code
        return 128 + signal.SIGINT


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
