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
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import psutil

# Prefix of a command: the shell writes its process id into the pipe (its stdin), and becomes the
# command. No process starts unguarded, even if its owner is killed at that moment.
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


if __name__ == "__main__":
    # The latest first; a directory of servers comes before them.
    with ExitStack() as targets:
        for line in map(str.rstrip, sys.stdin):
            if not line.isdigit():
                targets.callback(shutil.rmtree, line, ignore_errors=True)
                continue
            with suppress(psutil.NoSuchProcess):
                targets.callback(stop, psutil.Process(int(line)))
