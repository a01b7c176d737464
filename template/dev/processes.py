"""Run servers, each recorded on disk first, so that a later run can stop the server too.

A server waits in a shell until its record exists. If this process dies before that, the pipe closes
and the server never starts. So every server that runs is on record.
"""

import os
import pwd
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

import psutil

_TIMEOUT_S = 60.0
_POLL_S = 0.01
# Another process may take a port between finding and using it: then another port is tried.
_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
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
        record(process, home.parent)
        process.stdin.write(b"go\n")
    return process


def record(process: psutil.Popen, directory: Path) -> None:
    """Write the record from which `stop_recorded(directory)` stops the process."""
    path = directory / f"{process.pid}.pid"
    path.write_text(f"{process.pid} {process.create_time()}")


def run(command: Sequence[str], home: Path, account: pwd.struct_passwd | None = None) -> None:
    """Run `command` to its end; raise StartFailed unless it succeeds in time."""
    process = start(command, home, account)
    try:
        exit_code = process.wait(_TIMEOUT_S)
    except psutil.TimeoutExpired:
        raise StartFailed(command[0], f"took more than {_TIMEOUT_S:.0f} s", home) from None
    finally:
        stop(process)
    if exit_code != 0:
        raise StartFailed(command[0], f"failed with exit code {exit_code}", home)


@contextmanager
def serve(
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[int], bool],
    home: Path,
    account: pwd.struct_passwd | None = None,
) -> Iterator[int]:
    """Run the server `command(port)` in `home`; yield the free port once `is_ready(port)`.

    Raises StartFailed, with the end of the server's log, if it dies or is not ready in time.
    """
    with ExitStack() as running:
        for attempt in range(1, _ATTEMPTS + 1):
            port = free_port()
            program = command(port)
            process = start(program, home, account)
            running.callback(stop, process)
            deadline = time.monotonic() + _TIMEOUT_S
            try:
                while not is_ready(port):
                    if (code := process.poll()) is not None:
                        raise StartFailed(program[0], f"ended with exit code {code}", home)
                    if time.monotonic() > deadline:
                        raise StartFailed(program[0], f"was not ready in {_TIMEOUT_S:.0f} s", home)
                    time.sleep(_POLL_S)
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


def packaged_binary(package: str, pattern: str, *, instead: str) -> Path:
    """Return the executable in `package`, which is not imported, that matches the glob `pattern`.

    Raises ServerUnavailable, naming the setting to use `instead`, when there is none.
    """
    spec = find_spec(package)
    for location in (spec and spec.submodule_search_locations) or ():
        for binary in Path(location).absolute().glob(pattern):
            if os.access(binary, os.X_OK):
                return binary
    raise ServerUnavailable(
        f"{package} has no program for this machine or is not installed: "
        f"install the `dev` dependency group, or set {instead} to a server of your own."
    )


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
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(psutil.TimeoutExpired):
            process.wait(0.02)
            return True
        # A process of a dead run stays a zombie until the first process of the machine reaps it;
        # that of a container often never does.
        with suppress(psutil.NoSuchProcess):
            if process.status() == psutil.STATUS_ZOMBIE and not isinstance(process, psutil.Popen):
                return True
    return False


def stop_recorded(directory: Path) -> None:
    """Stop every process that `start` recorded in `directory` and that still runs."""
    for path in directory.glob("*.pid"):
        # Half a file, a directory, or the record of a process that has ended.
        with suppress(OSError, ValueError, psutil.Error):
            pid, started = path.read_text().split()
            process = psutil.Process(int(pid))
            if abs(process.create_time() - float(started)) < _SAME_START_S:
                stop(process)


def _log(home: Path) -> Path:
    return home.with_name(f"{home.name}.log")
