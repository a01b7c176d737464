"""Runs the service's own command, `python -m app`."""

import os
import subprocess
import sys
from pathlib import Path

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
