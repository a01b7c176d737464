"""Starts and stops processes, each recorded on disk first, so that a later run can stop it too.

A process waits in a shell until its record exists; if we die before that, the pipe closes and it
never becomes a server. So no server ever runs that is not on record.
"""

import os
import pwd
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

TIMEOUT_S = 60.0
_RUN_WHEN_TOLD = 'read -r go && exec "$@" </dev/null'
# SIGINT first: PostgreSQL's fast shutdown (on SIGTERM it waits for its clients), and as good as
# SIGTERM for other servers. Each comes with the seconds to wait for its effect.
_STOP_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 3.0), (signal.SIGKILL, 3.0))
# psutil adds the boot time, which Linux gives in whole seconds, to the start time.
_SAME_START_S = 1.5


class ServerUnavailable(RuntimeError):
    """A server cannot be started; the message has the reason or the remedy."""


class StartFailed(ServerUnavailable):
    """A program died, or was not ready in time; the message ends with the end of its log."""

    def __init__(self, program: str, problem: str, home: Path) -> None:
        log = _log(home).read_text(errors="replace").splitlines()
        super().__init__("\n".join([f"{program} {problem}; its log ends:", *log[-20:]]))


def start(
    command: Sequence[str], home: Path, account: pwd.struct_passwd | None = None
) -> psutil.Popen:
    """Start `command` in the directory `home`, as the user `account` if one is given.

    Log and record lie beside `home`, out of reach of the account to which `home` may belong.
    """
    # PGPORT and its like would override what we configure. The rest makes servers the same on every
    # machine; on macOS PostgreSQL also refuses to start in a locale that it cannot load.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    try:
        with _log(home).open("wb") as log:
            process = psutil.Popen(
                ["/bin/sh", "-c", _RUN_WHEN_TOLD, "sh", *command],
                cwd=home,
                env=inherited | {"LC_ALL": "C", "TZ": "UTC"},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A terminal's Ctrl-C goes to its whole process group; we stop servers ourselves.
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
    except OSError as error:  # a container may deny even root the right to become another user
        raise ServerUnavailable(f"{command[0]} cannot be started: {error}") from error
    with process.stdin:
        record = home.with_name(f"{home.name}.{process.pid}.pid")
        record.write_text(f"{process.pid} {process.create_time()}")
        process.stdin.write(b"go\n")
    return process


def run(command: Sequence[str], home: Path, account: pwd.struct_passwd | None = None) -> None:
    """Run `command` to its end; raise StartFailed unless it succeeds in time."""
    process = start(command, home, account)
    try:
        exit_code = process.wait(TIMEOUT_S)
    except psutil.TimeoutExpired:
        raise StartFailed(command[0], f"took more than {TIMEOUT_S:.0f} s", home) from None
    finally:
        stop(process)
    if exit_code != 0:
        raise StartFailed(command[0], f"failed with exit code {exit_code}", home)


def stop(process: psutil.Process) -> None:
    """Stop a process and its children with signals, and kill them after a bounded wait."""
    try:
        children = process.children(recursive=True)
    except psutil.NoSuchProcess:
        children = []  # It has ended, and may still have to be reaped.
    for signum, patience_s in _STOP_SIGNALS:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signum)
        if _ends_within(patience_s, process):
            break
    for child in children:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    for child in children:
        _ends_within(_STOP_SIGNALS[-1][1], child)


def _ends_within(patience_s: float, process: psutil.Process) -> bool:
    if isinstance(process, psutil.Popen):
        try:
            process.wait(patience_s)
        except psutil.TimeoutExpired:
            return False
        return True
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        try:
            process.wait(0.02)
        except psutil.TimeoutExpired:
            # A process that we inherited from a dead run stays a zombie until the first process of
            # the machine reaps it; that of a container often never does.
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    continue
        return True
    return False


def stop_recorded(directory: Path) -> None:
    """Stop every process that `start` recorded in `directory` and that still runs."""
    for record in directory.glob("*.pid"):
        # Other entries (half a file, a directory, a process that has ended) are no process of
        # ours.
        with suppress(OSError, ValueError, psutil.Error):
            pid, started = record.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(started)) < _SAME_START_S:
                stop(process)


def _log(home: Path) -> Path:
    return home.with_name(f"{home.name}.log")
