"""Functions for the processes of the pool, which import this module."""

import os
import re
import signal
import sys
import time
from pathlib import Path


def forever() -> None:
    while True:
        pass


def forever_in_c() -> None:
    """Hold Python's lock, so that no other thread of the process runs."""
    re.match(r"(a+)+$", "a" * 64 + "b")


def sleep(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail() -> None:
    raise ZeroDivisionError("the reason")


class Awkward(Exception):
    """An error that cannot be unpickled."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail_awkwardly() -> None:
    raise Awkward(1, 2)


def leave() -> None:
    sys.exit("the reason")


def return_function() -> object:
    return lambda: None


def sockets() -> list[str]:
    links = [os.readlink(entry) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    return [link for link in links if link.startswith("socket:")]


def handlers() -> dict[str, bool]:
    """Return whether the process has no handler of its parent for these signals.

    A shell that starts the tests in the background lets all processes ignore SIGINT and SIGQUIT.
    """
    names = ("SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGALRM", "SIGWINCH")
    default = (signal.SIG_DFL, signal.SIG_IGN, signal.default_int_handler)
    return {name: signal.getsignal(getattr(signal, name)) in default for name in names}


def read_input() -> str:
    return sys.stdin.read()


def modules() -> list[str]:
    return list(sys.modules)
