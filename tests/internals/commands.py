"""Runs the service's own command, `python -m app`, and finds its server."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run_in(ROOT, *arguments, **variables)


def run_in(directory: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    process = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=directory,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert "Traceback" not in process.stderr
    return process


def until(is_done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_done():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_ended(process: psutil.Process) -> None:
    """Wait for a process of this test without reaping it: its exit code can be read afterwards.

    Python restores the default signal handlers before it exits. A further SIGTERM kills it then.
    """
    until(lambda: process.status() == psutil.STATUS_ZOMBIE)


def master_of(port: int | None) -> psutil.Process:
    """Return the gunicorn that this test has started on the port."""
    for process in psutil.Process().children():
        with suppress(psutil.Error):
            if str(port) == process.environ().get("PORT"):
                return process
    raise AssertionError("no gunicorn")
