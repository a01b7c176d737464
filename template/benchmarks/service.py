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
    """The files of a version, and the Python of its environment."""

    name: str
    root: Path
    python: str


PRESENT = Version("working tree", ROOT, sys.executable)


@dataclass(frozen=True)
class Deployment:
    """A version with servers and a database of its own, and the variables of its service."""

    version: Version
    servers: Sequence[psutil.Process]
    variables: Mapping[str, str]


@dataclass(frozen=True)
class Service:
    """A service that runs: its port, and the process of gunicorn."""

    deployment: Deployment
    port: int
    process: psutil.Process

    def cpu_s(self) -> tuple[float, float]:
        """Return the CPU time that the service and its servers have used so far."""
        return _cpu_s([self.process]), _cpu_s(self.deployment.servers)


def checkout(ref: str, home: Path) -> Version:
    """Put the files of a commit into `home`, with an environment of its own by uv.

    Raises Unusable if there is no such commit, or no service in it.
    """
    commit = _output("git", "rev-parse", "--verify", "--end-of-options", f"{ref}^{{commit}}")
    archive = home.with_suffix(".tar")
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
    return Version(f"{ref} ({commit[:8]})", home, str(home / ".venv/bin/python"))


def _output(*command: str, cwd: Path = ROOT) -> str:
    process = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if process.returncode:
        raise Unusable(f"`{' '.join(command)}` failed: {process.stderr.strip()}")
    return process.stdout.strip()


@contextmanager
def deployed(version: Version) -> Iterator[Deployment]:
    """Start the servers of a version, with its migrations."""
    before = {each.pid for each in psutil.Process().children()}
    with isolated_servers({}) as variables:
        servers = [each for each in psutil.Process().children() if each.pid not in before]
        _output(version.python, "-m", "app", "migrate", cwd=version.root)
        yield Deployment(version, servers, variables)


@contextmanager
def running(deployment: Deployment, home: Path, workers: int) -> Iterator[Service]:
    """Serve a version on its servers."""
    variables = {**deployment.variables, "WEB_CONCURRENCY": str(workers)}
    version = deployment.version
    with serving(home, (version.python,), version.root, variables) as (port, pid):
        yield Service(deployment, port, psutil.Process(pid))


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
