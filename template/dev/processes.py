"""Run the programs of servers. Each has a log, and is stopped when this process ends."""

import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from dev.guardian import GUARDED, guard, guardian, stop

# The user that runs a program; None is the present one.
Account = pwd.struct_passwd | None

_TIMEOUT_S = 60.0
# Another process may take a free port before the server does. Then `serve` tries another port.
_ATTEMPTS = 5
_PORT_TAKEN = "Address already in use"
# Below the ports of outgoing connections, which begin at 32768 on Linux and 49152 on macOS: one of
# them could take the port before its server does.
_PORTS = range(20_000, 32_768)
_given: set[int] = set()


class ServerUnavailable(RuntimeError):
    """A server cannot be started; the message has the reason or the remedy."""


class StartFailed(ServerUnavailable):
    """A program ended, or was not ready in time; the message has the end of its log."""

    def __init__(self, program: str, problem: str, home: Path) -> None:
        log = log_of(home).read_text(errors="replace").splitlines()
        super().__init__("\n".join([f"{program} {problem}; its log ends:", *log[-20:]]))


def log_of(home: Path) -> Path:
    """Return the log of a program: beside its `home`, which may belong to another account."""
    return home.with_name(f"{home.name}.log")


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a directory for servers, and remove it on exit, even if this process is killed."""
    path = Path(tempfile.mkdtemp(prefix="devservers-")).absolute()
    guard(path)
    # PostgreSQL refuses to run as root; the account that runs it must reach its data.
    path.chmod(0o711 if os.geteuid() == 0 else 0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path)


def start(
    command: Sequence[str],
    home: Path,
    account: Account = None,
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> psutil.Popen:
    """Start `command` in the directory `cwd` or `home`, as the user `account` if one is given."""
    # PGPORT and similar variables would override these settings. LC_ALL and TZ make servers alike
    # on all machines; on macOS, PostgreSQL does not start in a locale that it cannot load.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    try:
        with log_of(home).open("wb") as log:
            return psutil.Popen(
                [*GUARDED, *command],
                cwd=cwd or home,
                env=inherited | {"LC_ALL": "C", "TZ": "UTC"} | dict(variables or {}),
                stdin=guardian(),
                stdout=log,
                stderr=subprocess.STDOUT,
                # The Ctrl-C of a terminal is not meant for it.
                start_new_session=True,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
    except OSError as error:  # a container may deny even root the right to become another user
        raise ServerUnavailable(f"{command[0]} cannot be started: {error}") from error


def wait_until(is_ready: Callable[[], bool], process: psutil.Popen, home: Path) -> None:
    """Wait until the process is ready; raise StartFailed if it ends, or is not ready in time."""
    program = process.args[len(GUARDED)]
    deadline = time.monotonic() + _TIMEOUT_S
    while not is_ready():
        if (code := process.poll()) is not None:
            raise StartFailed(program, f"ended with exit code {code}", home)
        if time.monotonic() > deadline:
            raise StartFailed(program, f"was not ready in {_TIMEOUT_S:.0f} s", home)
        time.sleep(0.01)


@contextmanager
def serve(
    command: Callable[[int], Sequence[str]],
    is_ready: Callable[[int], bool],
    home: Path,
    account: Account = None,
    *,
    cwd: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """Run the server `command(port)` on a free port; yield the port once `is_ready(port)`.

    Raises StartFailed if the server ends or is not ready in time.
    """
    with ExitStack() as running:
        for attempt in range(1, _ATTEMPTS + 1):
            port = free_port()
            process = start(command(port), home, account, cwd=cwd, variables=variables)
            running.callback(stop, process)
            try:
                wait_until(partial(is_ready, port), process, home)
                break
            except StartFailed as failure:
                if attempt == _ATTEMPTS or _PORT_TAKEN not in str(failure):
                    raise
        yield port


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free at the moment, and another one at each call.

    Raises ServerUnavailable if there is none.
    """
    # Another run beside this one begins elsewhere.
    first = random.SystemRandom().randrange(len(_PORTS))
    for step in range(len(_PORTS)):
        port = _PORTS[(first + step) % len(_PORTS)]
        if port in _given:
            continue
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            _given.add(port)
            return port
    raise ServerUnavailable(f"No port from {_PORTS[0]} to {_PORTS[-1]} is free.")


def packaged_binary(package: str, pattern: str, *, instead: str) -> Path:
    """Return the executable that matches the glob `pattern` in an installed package.

    Raises ServerUnavailable if there is none; the message names the variable to set `instead`.
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
