"""`nox -s bench`: its judgement in tables, and runs on real servers with a planted regression."""

import json
import os
import shutil
import subprocess
import sys
from math import exp, inf
from pathlib import Path
from random import Random

import pytest

from benchmarks.judgement import QUANTILES, Interval, interval
from benchmarks.measuring import Costs, Endpoint
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
        if scope.get("path") == "PATH":
            PLANT
        await self.app(scope, receive, send)


app.add_middleware(Slow)
"""


def test_other_numbers_of_starts_have_no_bounds() -> None:
    assert interval([]) == Interval(0.0, 1.0, inf)
    found = interval([1.1] * 7)
    assert (found.low, found.high) == (0.0, inf)
    assert found.middle == pytest.approx(1.1)


def test_starts_that_agree_have_a_narrow_interval() -> None:
    found = interval([1.09, 1.10, 1.11, 1.10])

    assert 1.05 < found.low < found.middle < found.high < 1.15
    # One disturbed start widens the interval, and moves no verdict.
    assert interval([1.0, 1.0, 1.0, 1.6]).verdict(0.05) == "unclear"


@pytest.mark.parametrize("spread", [0.005, 0.02, 0.05])
@pytest.mark.parametrize("disturbed", [0.0, 0.1])
def test_a_comparison_with_all_of_its_looks_misses_the_truth_five_times_in_100(
    spread: float, disturbed: float
) -> None:
    source = Random(7)  # noqa: S311
    comparisons, missed = 4000, 0
    for _ in range(comparisons):
        logs: list[float] = []
        for looks_at in QUANTILES:
            while len(logs) < looks_at:
                wide = source.random() < disturbed
                logs.append(source.gauss(0, spread * (3 if wide else 1)))
            found = interval([exp(each) for each in logs])
            if not found.low <= 1 <= found.high:
                missed += 1
                break
    assert missed / comparisons <= 0.05


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.06, 1.12, "slower"),
        (1.04, 1.12, "unclear"),
        (0.98, 1.03, "not slower"),
        (0.90, 0.94, "faster"),
        (0.0, inf, "unclear"),
    ],
)
def test_a_version_is_slower_only_if_the_whole_interval_says_so(
    low: float, high: float, verdict: str
) -> None:
    assert Interval(low, (low + min(high, 2)) / 2, high).verdict(0.05) == verdict


def test_the_ratio_of_a_start_is_the_median_of_its_rounds() -> None:
    old, new = Costs(), Costs()
    endpoint = Endpoint("GET /", [b"", b""], [old, new])
    for _ in range(4):
        old.cpu_us["service"] += [100.0] * 10
        # Less than half of the rounds are disturbed.
        new.cpu_us["service"] += [110.0] * 6 + [900.0] * 4
        for each in (old, new):
            each.cpu_us["servers"] += [1.0] * 10
        endpoint.end_start(10)

    found = endpoint.compared("service")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((1.1, 1.1))
    # Too small to be compared.
    assert endpoint.compared("servers") is None


def test_the_drawing_escapes_the_names() -> None:
    svg = drawing([{"endpoint": "GET /<a>&b", "from": 0.9, "to": 1.1}], "from", "to")

    assert "GET /&lt;a&gt;&amp;b" in svg


def bench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=1800,
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


def compare(root: Path, path: str, plant: str, starts: int) -> tuple[int, float, str]:
    """Compare a working tree with the commit; `plant` stands in each request to the path.

    Returns the exit code, the ratio of CPU time, and the output.
    """
    file = root / "app" / "main.py"
    subprocess.run([*GIT, "checkout", "--quiet", str(file)], cwd=root, check=True)
    file.write_text(file.read_text() + SLOW.replace("PATH", path).replace("PLANT", plant))
    options = (f"--only=GET {path}", f"--starts={starts}", "--rounds=20")
    process = bench(root, "--against=HEAD", *options)
    written = max((root / "benchmarks" / "results").glob("*.json"))
    ratio = json.loads(written.read_text())["rows"][0]["ratio"]
    return process.returncode, ratio, process.stdout + process.stderr


@pytest.mark.timeout(1800)
def test_a_large_regression_is_found(repository: Path) -> None:
    # Each request costs several times as much: no noise of a machine hides that.
    code, _, output = compare(repository, "/livez", "sum(range(50_000))", 4)

    assert code == 1, output
    assert "slower by more than 5 %: GET /livez" in output


@pytest.mark.skipif(not PROOFS, reason="`nox -s thorough` sets BENCH_PROOFS")
@pytest.mark.timeout(36_000)
# The second one sends SQL.
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
def test_a_regression_of_ten_percent_is_found_and_no_change_is_not(
    repository: Path, path: str
) -> None:
    number = 5000
    _, empty, _ = compare(repository, path, "pass", 4)
    _, full, _ = compare(repository, path, f"sum(range({number}))", 4)
    number = int(number * (1.1 - empty) / (full - empty))
    for _ in range(PROOFS):
        code, _, output = compare(repository, path, f"sum(range({number}))", 16)
        assert code == 1, output
        code, _, output = compare(repository, path, "pass", 16)
        assert code == 0, output
