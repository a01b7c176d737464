"""Fixtures for the tests of the template, and the table that the tests of updates print."""

import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.history import OLDEST, answers_at, make_history
from tests.quick_copier import quicken
from tests.rendering import commit, render, snapshot
from tests.updates import Tally, cases
from tests.variants import VARIANTS, Answers

TALLY = "tally of updates"
Once = Callable[[str, Callable[[Path], object]], Path]

quicken()


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Make a directory once for all processes of a run; tests only read it."""
    own = tmp_path_factory.getbasetemp()
    home = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def made(name: str, make: Callable[[Path], object]) -> Path:
        path = home / f"once-{name}"
        if not path.exists():
            draft = tmp_path_factory.mktemp("draft") / name
            make(draft)
            # Fails if another process was faster.
            with contextlib.suppress(OSError):
                draft.rename(path)
        return path

    return made


@pytest.fixture(scope="session")
def template(once: Once) -> Path:
    """A repository with the template as it lies in the working tree; read only, and rendered from its HEAD."""
    return once("template", snapshot)


@pytest.fixture(scope="session")
def rendered(template: Path, once: Once) -> Callable[[Answers], Path]:
    """A service of the template with these answers, not committed; read only."""

    def service(answers: Answers) -> Path:
        digest = hashlib.sha256(repr(sorted(answers.items())).encode()).hexdigest()[:16]
        return once(f"rendered-{digest}", lambda path: render(template, path, answers))

    return service


@pytest.fixture(scope="session")
def history(template: Path, once: Once) -> Path:
    """A repository with earlier versions of the template, and the present one as its HEAD; read only."""
    return once("history", lambda path: make_history(template, path))


@pytest.fixture(scope="session")
def unprotected(template: Path, once: Once) -> Path:
    """The same without migrations, to show their effect; read only."""
    return once("unprotected", lambda path: make_history(template, path, migrations=False))


@pytest.fixture(scope="session")
def made(history: Path, once: Once) -> Callable[[str, str], Path]:
    """The service of a variant as a version of the history makes it, committed; a test copies it."""

    def service(variant: str, version: str) -> Path:
        def start(path: Path) -> None:
            render(history, path, answers_at(version, VARIANTS[variant]), version)
            commit(path, "Start from the template")

        return once(f"{variant}-{version}", start)

    return service


@pytest.fixture(scope="session")
def oldest(made: Callable[[str, str], Path]) -> Callable[[str], Path]:
    """The service of a variant as the oldest version made it; a test copies it."""
    return lambda variant: made(variant, OLDEST)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """Count the edits and conflicts of the services in this test, for the table at the end of the run."""
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
