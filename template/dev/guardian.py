"""Stop processes and remove directories when their owner has ended, even if it was killed.

The owner is the process that calls `guard` or `guardian`. Its guardian is one more process, which
reads from a pipe until the owner, the only writer, has ended.
"""

import atexit
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

# Runs the command that follows, once its number is in the pipe, which is the standard input.
GUARDED = ("/bin/sh", "-c", 'echo $$ >&0 && exec "$@" </dev/null', "sh")
_PATIENCE_S = 5.0


def guard(charge: int | Path) -> None:
    """Stop the process of this number, or remove this directory, when the present process ends."""
    os.write(guardian(), f"{charge}\n".encode())


@cache
def guardian() -> int:
    """Return the pipe to the guardian of this process, which the first call starts."""
    process = subprocess.Popen(
        [sys.executable, __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        # The Ctrl-C of a terminal is not meant for it.
        start_new_session=True,
    )
    assert process.stdin
    # An orderly end waits for it.
    atexit.register(process.communicate)
    return process.stdin.fileno()


def stop(process: psutil.Process) -> None:
    """Stop a process with its children, and kill them after a bounded wait."""
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    with suppress(psutil.NoSuchProcess):
        # PostgreSQL's fast shutdown: after SIGTERM, it waits for its clients.
        process.send_signal(signal.SIGINT)
    _wait([process])
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    # Workers whose master was killed. No other process gets the number of a group.
    if process.is_running() or not psutil.pid_exists(process.pid):
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
    _wait(family)
    if isinstance(process, psutil.Popen):  # only its parent can reap it
        with suppress(psutil.TimeoutExpired):
            process.wait(_PATIENCE_S)


def _wait(processes: list[psutil.Process]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while any(map(runs, processes)) and time.monotonic() < deadline:
        time.sleep(0.01)


def runs(process: psutil.Process) -> bool:
    """Return whether a process has not ended; in some containers, nothing reaps its zombie."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    processes: list[psutil.Process] = []
    directories: list[str] = []
    for line in sys.stdin:
        charge = line.rstrip("\n")
        if not charge.isdigit():
            directories.append(charge)
            continue
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(charge)))
    for process in reversed(processes):
        stop(process)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
