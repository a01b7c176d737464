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

# Prefix of a command: the shell writes its process id into the pipe (its stdin), and becomes the
# command.
GUARDED = ("/bin/sh", "-c", 'echo $$ >&0 && exec "$@" </dev/null', "sh")
_PATIENCE_S = 5.0


def guard(target: int | Path) -> None:
    """Stop the process with this id, or remove this directory, when the present process ends."""
    os.write(guardian(), f"{target}\n".encode())


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
    # A normal exit waits for the guardian.
    atexit.register(process.communicate)
    return process.stdin.fileno()


def stop(process: psutil.Process) -> None:
    """Stop a process with its children, and kill them after a bounded wait."""
    family = [process]
    with suppress(psutil.NoSuchProcess):
        family += process.children(recursive=True)
    with suppress(psutil.NoSuchProcess):
        # SIGINT is PostgreSQL's fast shutdown; after SIGTERM it waits for its clients.
        process.send_signal(signal.SIGINT)
    _wait([process])
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    # Kill workers whose parent was killed; the id of a group that has members is not reused.
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
    """Return whether a process runs; a zombie, which some containers never reap, does not."""
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def main() -> None:
    processes: list[psutil.Process] = []
    directories: list[str] = []
    for line in sys.stdin:
        target = line.rstrip("\n")
        if not target.isdigit():
            directories.append(target)
            continue
        with suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(int(target)))
    for process in reversed(processes):
        stop(process)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
