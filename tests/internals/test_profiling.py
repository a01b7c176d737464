"""`nox -s profile`: a flame graph of the service under its own load."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dev import profiling
from dev.processes import ServerUnavailable
from tests.core.plugin import migrated_database


def test_the_flame_graph_has_the_code_of_the_service() -> None:
    with migrated_database() as url:
        process = subprocess.run(
            [sys.executable, "-m", "dev.profiling", "cpu", "--seconds", "2"],
            cwd=profiling.ROOT,
            env=os.environ | {"DATABASE_URL": url},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    if process.stderr == f"{profiling.NOT_ALLOWED}\n":
        pytest.skip("the system does not allow py-spy")
    assert process.returncode == 0, process.stderr
    statuses, drawing = process.stdout.splitlines()
    assert statuses.startswith("responses by status: {200: ")
    assert "(app/" in Path(drawing).read_text()


def test_a_refusal_of_the_system_is_explained() -> None:
    denied = ("sh", "-c", "echo 'Error: Permission Denied: Try sudo'; exit 1")
    with pytest.raises(ServerUnavailable, match="ptrace_scope"):
        profiling.run(*denied)

    with pytest.raises(ServerUnavailable, match="no such option"):
        profiling.run("sh", "-c", "echo no such option; exit 2")
