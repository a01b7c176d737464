"""Development servers leave nothing behind, even when the process that started them is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from dev.workspace import reap_orphans

ROOT = Path(__file__).parents[2]

PROGRAM = """
import os, sys
from dev.servers import servers
from dev.workspace import workspace
with workspace() as home, servers(home, {}):
    print(home, flush=True)
    sys.stdin.read()
"""


def processes_in(home: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(home) in argument for argument in process.info["cmdline"] or []):
            found.append(process)
    return found


def test_nothing_is_left_of_a_killed_run_once_the_next_starts(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    with subprocess.Popen(
        [sys.executable, str(program)],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.endswith("_URL")}
        | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        home = Path(process.stdout.readline().strip())
        assert home.is_dir()
        assert processes_in(home)
        process.send_signal(signal.SIGKILL)
    assert processes_in(home)

    reap_orphans()

    assert not home.exists()
    assert processes_in(home) == []


def test_a_command_runs_on_migrated_servers() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "dev", "run", sys.executable, "-m", "alembic", "check"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.endswith("_URL")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert process.returncode == 0, process.stderr
    assert "No new upgrade operations detected." in process.stdout
