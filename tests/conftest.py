"""Fixtures for the tests of the template, and the table of what the tests of updates have counted."""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path

import pytest

from tests.history import OLDEST, answers_at, make_history
from tests.rendering import commit, render, snapshot
from tests.updates import Tally, cases
from tests.variants import VARIANTS

TALLY = "tally of updates"


@pytest.fixture(scope="session", autouse=True)
def fewer_processes() -> Iterator[None]:
    """Let Copier not ask git for `core.fileMode` before each file: 228 processes in one update, half of its time.

    It does nothing with the answer where file systems have executable bits. What runs Copier as a command still asks.
    """
    with pytest.MonkeyPatch.context() as patch:
        if os.name == "posix":
            # By name: Copier may do it otherwise one day, and then there is nothing to leave out.
            patch.setattr("copier._main.Worker._sync_git_index_executable_bit", lambda *_: None, raising=False)
        yield


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the template as it lies in the working tree; read only, and rendered from its HEAD."""
    return snapshot(tmp_path_factory.mktemp("template"))


@pytest.fixture(scope="session")
def history(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with earlier versions of the template, and the present one as its HEAD; read only."""
    return make_history(template, tmp_path_factory.mktemp("history") / "template")


@pytest.fixture(scope="session")
def unprotected(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without migrations, to show what they are for; read only."""
    return make_history(template, tmp_path_factory.mktemp("unprotected") / "template", migrations=False)


@pytest.fixture(scope="session")
def oldest(history: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The service of a variant as the oldest version made it, committed; a test copies it."""

    @cache
    def service(variant: str) -> Path:
        made = render(history, tmp_path_factory.mktemp(variant), answers_at(OLDEST, VARIANTS[variant]), OLDEST)
        commit(made, "Start from the template")
        return made

    return service


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Counts what happens to services in this test, for the table at the end of the run."""
    tally = Tally()
    yield tally
    request.node.user_properties.append((TALLY, asdict(tally)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print one line for each test of updates, all its parameters together."""
    tallies: dict[str, Tally] = {}
    seconds: dict[str, float] = {}
    for report in itertools.chain.from_iterable(terminalreporter.stats.values()):
        if not isinstance(report, pytest.TestReport):
            continue
        case = report.nodeid.rpartition("::")[2].partition("[")[0].removeprefix("test_").replace("_", " ")
        seconds[case] = seconds.get(case, 0) + report.duration
        # The report of the teardown comes last.
        for name, value in report.user_properties if report.when == "teardown" else ():
            if name == TALLY:
                assert isinstance(value, dict)
                tallies[case] = tallies.get(case, Tally()) + Tally(**value)
    if tallies:
        terminalreporter.section("updates")
        terminalreporter.write_line(cases(tallies, seconds))
