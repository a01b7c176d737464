"""The count of jobs in memory outlives a kill, and is read once."""

import signal
import subprocess
import sys
from pathlib import Path

from app.core.jobs.lost import Count, take_lost
from tests.core.serving import ROOT

KILLED = """
import os, signal, sys
from pathlib import Path
from app.core.jobs.lost import Count
count = Count(Path(sys.argv[1]))
count.add(1)
count.add(3)
count.add(-1)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_jobs_of_a_killed_process_are_counted(tmp_path: Path) -> None:
    directory = tmp_path / "jobs"
    alive = Count(directory)
    alive.add(5)
    for _ in range(2):
        command = [sys.executable, "-c", KILLED, str(directory)]
        killed = subprocess.run(command, cwd=ROOT, check=False, timeout=60)
        assert killed.returncode == -signal.SIGKILL

    assert take_lost(directory) == 6
    assert take_lost(directory) == 0
    alive.add(-5)
    alive.close()
    assert list(directory.iterdir()) == []
