"""Whole runs, as a person starts them: on servers of their own, with few rows and short rounds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.harness.results import SCHEMA_VERSION, Section
from benchmarks.harness.scenarios import MIXES
from benchmarks.harness.services import SERVICES
from benchmarks.harness.ways import COMPARISONS
from tests.rendering import ROOT

# Of a run, on a machine that does much else.
TIMEOUT_S = 900
# The mixes have every kind of request in them.
SCENARIOS = ("user", "write", "read-mostly", "read-mostly-cached")
SMALL = ["--users", "2000", "--posts", "2000", "--clients", "8", "--client", "own"]


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    """A directory for temporary files of its own, so that the rows of real runs stay as they are."""
    path = Path(tempfile.mkdtemp(prefix="benchmark-tests-"))
    # Under root PostgreSQL runs as another user, who has to get to its data.
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def environment(temporary: Path) -> dict[str, str]:
    return os.environ | {"TMPDIR": str(temporary)}


def start(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks", *SMALL, "--output", str(temporary / "results"), *arguments],
        cwd=ROOT,
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        # A shell starts a background job with SIGINT ignored, and the process would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def run(temporary: Path, *arguments: str) -> tuple[int, str]:
    with start(temporary, *arguments) as process:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"no end within {TIMEOUT_S} s; its output: {error.output!r}") from None
        finally:
            process.kill()
        return process.returncode, output


def leftovers(temporary: Path) -> list[str]:
    """Processes of a run, which all have its directory for temporary files in their environment, and its files."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == str(temporary):
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found + [str(path) for path in temporary.glob("devservers-*")]


def results(temporary: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((temporary / "results" / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def whole(temporary: Path) -> tuple[dict[str, Any], str, list[str]]:
    """Return the results, the output and the leftovers of one run of every section."""
    scenarios = ",".join((*SCENARIOS, *COMPARISONS))
    code, output = run(temporary, "--scenarios", scenarios, "--rounds", "1", "--seconds", "0.2", "--sweep", "2")
    left = leftovers(temporary)
    assert code == 0, output
    return results(temporary), output, left


def test_all_services_answer_alike_and_are_measured(
    whole: tuple[dict[str, Any], str, list[str]], temporary: Path
) -> None:
    found, _, left = whole
    assert (found["schema_version"], found["complete"]) == (SCHEMA_VERSION, True)
    measured = {(one["section"], one["scenario"], one["service"]): one for one in found["measurements"]}
    for name in SERVICES:
        for scenario in SCENARIOS:
            one = measured["mixes" if scenario in MIXES else "endpoints", scenario, name]
            assert not one["summary"]["errors"]
            # A naive service may need longer than a round for its first answers.
            assert one["summary"]["answered"] or name == "naive"
        assert ("clients", "user", name) in measured
        assert ("open_loop", "read-mostly", name) in measured
    assert found["versions"]["fastapi"]
    report = (temporary / "results" / "results.md").read_text()
    assert "read-mostly-cached" in report
    plots = list((temporary / "results").glob("*.svg"))
    assert len(plots) == 4
    for plot in plots:
        xml.etree.ElementTree.parse(plot)  # noqa: S314 - our own file
    assert left == []


@pytest.mark.parametrize("section", COMPARISONS)
def test_all_ways_answer_alike_and_are_measured(whole: tuple[dict[str, Any], str, list[str]], section: Section) -> None:
    found, output, _ = whole
    measured = {(one["scenario"], one["service"]): one for one in found["measurements"] if one["section"] == section}
    expected = COMPARISONS[section].of
    assert list(measured) == [(scenario, name) for scenario, names in expected.items() for name in names]
    for one in measured.values():
        assert one["cached"] == COMPARISONS[section].cached
        assert one["summary"]["answered"] or one["service"] == "naive"
        assert not one["summary"]["errors"]
    if section == "lanes":
        assert "| posts | orm-selectinload |" in output
    elif section == "crud":
        assert "| crud | no-cache |" in output
    elif section == "arena":
        assert "| json | rendered |" in output
    else:
        assert "| user-popular | redis-in-route |" in output
        probes = {one["name"]: one for one in found["probes"]}
        assert list(probes) == ["middleware", "memory", "stampede", "stampede-errors", "stampede-p50", "stampede-p99"]
        assert all(one["values"] for one in probes.values())
        # Not whether goals are reached, on a machine that does other things: but 500 clients do not make 500 queries.
        assert max(probes["stampede"]["values"]) < 50
        assert 10_000 * 300 < probes["memory"]["median"] * 1e6 < 10_000 * 20_000


def test_an_interrupted_run_keeps_what_it_has_and_leaves_nothing(temporary: Path) -> None:
    process = start(temporary, "--services", "raw,plain", "--scenarios", "user,posts", "--rounds", "100")
    with process:
        assert process.stdout
        for line in process.stdout:
            if "requests/s" in line:
                break
        # As a terminal does it: to the whole group.
        os.killpg(process.pid, signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130
    found = results(temporary)
    assert found["complete"] is False
    assert len(found["measurements"]) in (1, 2)
    assert leftovers(temporary) == []


def test_a_killed_run_leaves_nothing(temporary: Path) -> None:
    process = start(temporary, "--services", "raw", "--scenarios", "user", "--rounds", "100")
    with process:
        assert process.stdout
        for line in process.stdout:
            if "requests/s" in line:
                break
        assert leftovers(temporary)
        process.kill()

    deadline = time.monotonic() + 20
    while leftovers(temporary) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert leftovers(temporary) == []


@pytest.mark.parametrize(
    "given",
    [
        ["--database-url", "postgresql://nobody@127.0.0.1:1/none"],
        ["--database-url", "nonsense"],
        ["--cache-url", "redis://127.0.0.1:1/0"],
        ["--cache-url", "nonsense"],
    ],
)
def test_a_server_that_cannot_be_used_is_named(temporary: Path, given: list[str]) -> None:
    code, output = run(temporary, "--scenarios", "health", *given)

    assert code == 1
    assert f"{given[0]}: " in output
    assert "Traceback" not in output
    assert leftovers(temporary) == []


def test_results_that_could_not_be_written_are_noticed_before_anything_is_measured(temporary: Path) -> None:
    (temporary / "file").touch()
    code, output = run(temporary, "--output", str(temporary / "file" / "results"))

    assert code == 2
    assert "--output: " in output
    assert "Traceback" not in output


def test_plots_of_an_earlier_run_do_not_stay_beside_new_results(temporary: Path) -> None:
    (temporary / "results").mkdir(exist_ok=True)
    old = temporary / "results" / "latency.svg"
    old.touch()
    code, output = run(temporary, "--services", "raw", "--scenarios", "health", "--rounds", "1", "--seconds", "0.1")

    assert code == 0, output
    assert not old.exists()
    assert "| health |" in output
