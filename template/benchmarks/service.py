"""A version of the service: its files, and one that runs as in production, on its own servers."""

import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx2
import psutil

from dev.processes import serve
from tests.core.serving import ROOT, isolated_servers


class Unusable(Exception):
    """There is nothing to compare with; the message has the reason."""


@dataclass(frozen=True)
class Version:
    """A version with servers and a database of its own, and the variables of its service."""

    name: str
    root: Path
    python: str
    servers: Sequence[psutil.Process]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Service:
    """A service that runs: its port, and the process of gunicorn."""

    version: Version
    port: int
    process: psutil.Process

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU time that the service and its servers have used so far."""
        return _cpu_s([self.process]), _cpu_s(self.version.servers)


@contextmanager
def deployed(ref: str | None, home: Path) -> Iterator[Version]:
    """Start the servers of a commit, or of the working tree, with its migrations.

    Raises Unusable if there is no such commit, or no service in it.
    """
    name = f"commit {ref}" if ref else "working tree"
    root, python = _checkout(ref, home) if ref else (ROOT, sys.executable)
    before = {each.pid for each in psutil.Process().children()}
    with isolated_servers({}) as variables:
        servers = [each for each in psutil.Process().children() if each.pid not in before]
        _output(python, "-m", "app", "migrate", cwd=root)
        yield Version(name, root, python, servers, variables)


def _checkout(ref: str, home: Path) -> tuple[Path, str]:
    """Put the files of a commit into `home`; return it, and a Python with its packages."""
    archive = home.with_suffix(".tar")
    commit = _output("git", "rev-parse", "--verify", "--end-of-options", ref + "^{commit}")
    # Of this directory alone, which may be a part of its repository. A worktree would stay in the
    # list of the repository if this process is killed.
    _output("git", "archive", f"--output={archive}", commit)
    with tarfile.open(archive) as files:
        files.extractall(home, filter="data")
    lock = ["--frozen"] if (home / "uv.lock").exists() else []
    uv = (os.environ.get("UV", "uv"), "sync", "--quiet", f"--python={sys.executable}", *lock)
    # These variables lead uv to the environment of this process.
    without = ("env", "-u", "VIRTUAL_ENV", "-u", "UV_PROJECT_ENVIRONMENT")
    _output(*without, *uv, cwd=home)
    return home, str(home / ".venv/bin/python")


def _output(*command: str, cwd: Path = ROOT) -> str:
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if process.returncode:
        raise Unusable(f"`{' '.join(command)}` failed: {process.stderr.strip()}")
    return process.stdout.strip()


@contextmanager
def running(version: Version, home: Path, workers: int) -> Iterator[Service]:
    """Serve a version on its servers."""
    variables = {**version.variables, "WEB_CONCURRENCY": str(workers)}
    with serving(home, (version.python,), version.root, variables) as (port, pid):
        yield Service(version, port, psutil.Process(pid))


@contextmanager
def serving(
    home: Path, python: Sequence[str], root: Path, variables: Mapping[str, str]
) -> Iterator[tuple[int, int]]:
    """Serve with this Python from the directory `root`; yields the port, and gunicorn's id."""
    pid = home.with_suffix(".pid")

    def command(port: int) -> list[str]:
        options = ("--config=deploy/gunicorn.conf.py", f"--pid={pid}")
        return ["env", f"PORT={port}", *python, "-m", "gunicorn", *options, "app.main:app"]

    with serve(command, _is_ready, home, cwd=root, variables=variables) as port:
        yield port, int(pid.read_text())


def _is_ready(port: int) -> bool:
    try:
        return httpx2.get(f"http://127.0.0.1:{port}/livez").is_success
    except httpx2.TransportError:
        return False


def _cpu_s(parents: Iterable[psutil.Process]) -> float:
    """Return the CPU time of the processes and all that they have started."""
    found = 0.0
    for process in (each for one in parents for each in [one, *one.children(recursive=True)]):
        with suppress(psutil.NoSuchProcess, OSError):
            if sys.platform == "linux":
                # The CPU clock of a process, as clock_getcpuclockid(3) has it: in nanoseconds. The
                # files in /proc, and psutil, count in hundredths of a second.
                found += time.clock_gettime((~process.pid << 3) | 2)
            else:
                times = process.cpu_times()
                found += times.user + times.system
    return found
