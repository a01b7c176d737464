"""The figures of operation: all of them, from real services."""

import re
import subprocess
import sys

from benchmarks import operations
from tests.rendering import ROOT

# On a machine that does much else.
TIMEOUT_S = 900
# Judged with the other goals of `nox -s bench`.
GOALS = {"the whole edge": 25, "CPU of import and start": 1.1, "SIGHUP twice": 0, "SIGTERM in turn": 0}


def test_one_round_has_every_figure_and_every_goal() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "benchmarks.operations", "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    lines = [line for line in process.stdout.splitlines() if line.startswith("| ")][2:]
    assert len(lines) == 11
    goals = {line: float(found[1]) for line in lines if (found := re.search(r"\(goal: at most ([\d.]+)\)", line))}
    assert len(goals) == len(GOALS)
    for name, bound in GOALS.items():
        assert [goal for line, goal in goals.items() if line.startswith(f"| {name}")] == [bound]
    for name in ("telemetry", "uvicorn with 1 worker, start", "gunicorn with 2 workers, memory"):
        [line] = [each for each in lines if each.startswith(f"| {name}")]
        assert float(line.split(" | ")[2].split()[0].replace(",", "")) > 0
    assert sum(bool(re.search(r"lost of [1-9][\d,]*", line)) for line in lines) == 2


def test_a_row_has_the_median_the_range_and_the_goal() -> None:
    probe = operations.probe("edge", "the edge", "us of CPU", [31.5, 22.0, 23.0], at_most=25)
    assert operations.row(probe) == "| the edge (goal: at most 25) | us of CPU | 23.00 (22.00 to 31.50) |"
    assert probe.reached
    assert not operations.probe("reload", "lost", "requests", [8], at_most=0).reached
