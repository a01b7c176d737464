"""`nox -s bench`: its judgement in tables, and runs on real servers with a planted regression."""

import json
import os
import shutil
import subprocess
import sys
from math import inf
from operator import truediv
from pathlib import Path
from statistics import median

import pytest

from benchmarks.judgement import Interval, interval
from benchmarks.report import drawing
from tests.core.serving import ROOT

GIT = (
    *("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.com"),
    *("-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"),
)
# How often a small regression has to be found; `nox -s thorough` sets it.
PROOFS = int(os.environ.get("BENCH_PROOFS", "0"))
SLOW = """

class Slow:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            sum(range(NUMBER))
        await self.app(scope, receive, send)


app.add_middleware(Slow)
"""


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([], Interval(0.0, 1.0, inf)),
        ([1.1] * 7, Interval(0.0, 1.1, inf)),
        # With eight, the median is outside of all of them once in 128 times.
        ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], Interval(1.0, 1.35, 1.7)),
        # One disturbed round does not move the bounds of more rounds.
        ([1.0] * 12 + [9.0], Interval(1.0, 1.0, 1.0)),
    ],
)
def test_an_interval_has_bounds_by_rank(ratios: list[float], expected: Interval) -> None:
    found = interval(ratios)

    assert (found.low, found.high) == (expected.low, expected.high)
    assert found.middle == pytest.approx(expected.middle)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "is_clear"),
    [
        (1.06, 1.12, "slower", True),
        (1.04, 1.12, "unclear", False),
        (0.98, 1.03, "same", True),
        (0.90, 1.04, "same", False),
        (0.90, 0.94, "faster", True),
        (0.0, inf, "unclear", False),
        (1.06, inf, "slower", False),
    ],
)
def test_a_version_is_slower_only_if_the_whole_interval_says_so(
    low: float, high: float, verdict: str, is_clear: bool
) -> None:
    found = Interval(low, (low + min(high, 2)) / 2, high)

    assert found.verdict(0.05) == verdict
    assert found.is_clear(0.05) == is_clear


def test_the_drawing_escapes_the_names() -> None:
    svg = drawing("Ratio", [("GET /<a>&b", 0.9, 1.0, 1.1)], 1.05)

    assert "GET /&lt;a&gt;&amp;b" in svg


def bench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the service with one commit."""
    root = tmp_path_factory.mktemp("repository") / "service"
    ignored = shutil.ignore_patterns(".venv", ".git", "__pycache__", "internals", ".*_cache")
    shutil.copytree(ROOT, root, ignore=ignored)
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "-m", "First"]):
        subprocess.run([*GIT, *command], cwd=root, check=True)
    return root


@pytest.mark.timeout(600)
def test_every_get_is_measured(repository: Path) -> None:
    process = bench(repository, "--clients=2")

    assert process.returncode == 0, process.stderr
    assert "GET /livez" in process.stdout
    written = {path.suffix for path in (repository / "benchmarks" / "results").iterdir()}
    assert written == {".json", ".svg"}


def test_what_cannot_be_compared_is_said_in_a_sentence(repository: Path) -> None:
    process = bench(repository, "--against", "no-such-branch")

    assert process.returncode == 2
    assert "no-such-branch" in process.stderr
    assert "Traceback" not in process.stderr


def compare(root: Path, number: int | None, rounds: int) -> tuple[int, float, str]:
    """Compare a working tree with the commit; each request of it adds numbers up to `number`.

    Returns the exit code, the ratio of CPU time, and the output.
    """
    subprocess.run([*GIT, "checkout", "--quiet", "app/main.py"], cwd=root, check=True)
    if number is not None:
        with (root / "app" / "main.py").open("a") as file:
            file.write(SLOW.replace("NUMBER", str(number)))
    process = bench(root, "--against=HEAD", "--only=GET /livez", f"--rounds={rounds}")
    written = max((root / "benchmarks" / "results").glob("*.json"))
    old, new = json.loads(written.read_text())["endpoints"]["GET /livez"]
    ratio = median(map(truediv, new["service_us"], old["service_us"]))
    return process.returncode, ratio, process.stdout + process.stderr


@pytest.mark.timeout(600)
def test_a_large_regression_is_found(repository: Path) -> None:
    # Each request costs several times as much: no noise of a machine hides that.
    code, _, output = compare(repository, 50_000, 8)

    assert code == 1, output
    assert "slower by more than 5 %: GET /livez" in output


@pytest.mark.skipif(not PROOFS, reason="`nox -s thorough` sets BENCH_PROOFS")
@pytest.mark.timeout(3600)
def test_a_regression_of_ten_percent_is_found_and_no_change_is_not(repository: Path) -> None:
    _, empty, _ = compare(repository, 0, 60)
    _, full, _ = compare(repository, 4000, 60)
    number = int(4000 * (1.1 - empty) / (full - empty))
    for _ in range(PROOFS):
        code, _, output = compare(repository, number, 200)
        assert code == 1, output
        code, _, output = compare(repository, None, 200)
        assert code == 0, output
