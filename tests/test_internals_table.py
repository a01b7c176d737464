"""The table of tests/internals/ is complete: no file is missing in it, and every combination runs in one variant."""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.internals_table import (
    HELPERS,
    ON_NEWEST,
    SOURCE,
    TESTS,
    Needs,
    answers_of,
    assigned,
    lay_over,
    on_newest,
    sensible,
    variant_with,
)
from tests.rendering import ROOT, git
from tests.variants import DEFAULTS, QUESTIONS, VARIANTS, Answers

APP = ROOT / "template" / "app"
# Modules that depend on the version of Python: their tasks, context variables, signals, threads, processes, pickling
# or signatures.
SENSITIVE = re.compile(
    r"^(?:import|from) (?:concurrent|contextvars|gc|inspect|multiprocessing|pickle|signal|threading|weakref)\b"
    r"|asyncio\.(?:create_task|shield|TaskGroup|to_thread|timeout|current_task|Runner|wait)\b",
    re.MULTILINE,
)
IMPORT = re.compile(r"^ *from (app\.[\w.]+) import (\([^)]*\)|[^\n(]+)", re.MULTILINE)
# Sensitive modules that no test imports, because they run in a process that a test starts, or behind another module.
STARTED_BY = {
    "app.core.cache.responses.loading": "test_response_cache.py",
    "app.core.concurrency.child": "test_processes.py",
    "app.core.http.compiled.runtime": "test_compiled.py",
    "app.core.jobs.broker": "broker/test_worker.py",
    "app.core.jobs.celery_worker": "broker/test_worker.py",
    "app.core.jobs.postgres_worker": "jobs/test_worker_processes.py",
    "app.core.operations.garbage_collection": "work/test_outages.py",
}
# Of engines that no variant on the newest Python has.
NOT_ON_NEWEST = {"app.core.jobs.background_tasks", "app.core.jobs.rq_worker"}


def test_every_file_is_in_the_table_and_every_row_has_a_file() -> None:
    files = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py")}

    assert files == TESTS.keys() | HELPERS.keys()
    assert TESTS.keys() == {name for name in files if name.rpartition("/")[2].startswith("test_")}


@pytest.mark.parametrize("name", TESTS | HELPERS)
def test_a_row_names_questions_and_their_answers(name: str) -> None:
    needs = (TESTS | HELPERS)[name]

    assert set(needs.by) | set(needs.only) <= set(QUESTIONS)
    assert all(set(answers) < set(QUESTIONS[question]) for question, answers in needs.only.items())


@pytest.mark.parametrize("name", TESTS)
def test_every_combination_runs_in_exactly_one_variant(name: str) -> None:
    needs = TESTS[name]
    possible = {
        tuple(answers_of(variant)[question] for question in needs.by)
        for variant in VARIANTS
        if needs.fit(answers_of(variant))
    }
    combinations = needs.combinations()
    chosen = [variant_with(needs, combination) for combination in combinations]

    # No combination is without a variant, none is left out, and no two share one.
    assert None not in chosen
    assert {tuple(combination.values()) for combination in combinations} == possible
    assert len(set(chosen)) == len(chosen)
    assert {variant for variant in VARIANTS if name in assigned(variant)} == set(chosen)
    for combination, variant in zip(combinations, chosen, strict=True):
        assert variant is not None
        assert name in sensible(variant)
        assert answers_of(variant).items() >= combination.items()


def test_a_combination_that_no_variant_has_is_found() -> None:
    assert variant_with(Needs(by=("ci",)), {"ci": "unknown"}) is None
    assert variant_with(Needs(only={"ci": ("unknown",)}), {}) is None


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_service_gets_the_tests_that_make_sense_with_all_that_they_import(variant: str, tmp_path: Path) -> None:
    lay_over(tmp_path, variant)

    home = tmp_path / "tests" / "internals"
    laid = {path.relative_to(home).as_posix() for path in home.rglob("*.py")}
    imported = {
        f"{module.replace('.', '/')}.py"
        for name in laid
        for module in re.findall(r"^from tests\.internals\.(\S+) import", (home / name).read_text(), re.MULTILINE)
    }
    assert laid & TESTS.keys() == set(sensible(variant))
    assert imported <= laid & HELPERS.keys()


def sensitive() -> set[str]:
    """Return the modules of core whose behaviour depends on the version of Python."""
    return {
        f"app.{path.relative_to(APP).as_posix().partition('.')[0].replace('/', '.')}"
        for path in (APP / "core").rglob("*.py*")
        if path.suffix in (".py", ".jinja") and SENSITIVE.search(path.read_text())
    }


def imported_by(name: str) -> set[str]:
    """Return the names of `app` that a test file imports: modules, and what it takes from them."""
    found = set()
    for module, names in IMPORT.findall((SOURCE / name).read_text()):
        found |= {module, *(f"{module}.{each}" for each in re.findall(r"\w+", names))}
    return found


def test_every_module_that_depends_on_the_interpreter_is_tested_on_the_newest() -> None:
    run = {name for variant in ON_NEWEST for name in on_newest(variant)}
    tested = set().union(*map(imported_by, run)) | {module for module, name in STARTED_BY.items() if name in run}

    assert sensitive() - tested == NOT_ON_NEWEST
    assert STARTED_BY.keys() <= sensitive()


@pytest.mark.parametrize("name", [name for name, needs in TESTS.items() if needs.interpreter])
def test_a_file_that_depends_on_the_interpreter_runs_once_on_the_newest(name: str) -> None:
    assert [variant for variant in ON_NEWEST if name in on_newest(variant)] == [
        variant for variant in ON_NEWEST if name in sensible(variant)
    ][:1]


def test_a_module_that_depends_on_the_interpreter_is_found() -> None:
    assert SENSITIVE.search("import asyncio\n\ntask = asyncio.create_task(work())\n")
    assert SENSITIVE.search("from contextvars import ContextVar\n")
    assert not SENSITIVE.search("import asyncio\n\nasyncio.run(main())\n")


@pytest.mark.parametrize("below", [".nox/variant/tmp", ".nox/clone/.nox/variant/tmp"])
def test_ruff_sees_the_internals_of_a_service_below_a_directory_that_git_ignores(
    below: str, tmp_path: Path, rendered: Callable[[Answers], Path]
) -> None:
    git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text(".nox/\n")
    service = tmp_path / below / "service"
    shutil.copytree(rendered(DEFAULTS), service)
    lay_over(service, "defaults")
    (service / "tests" / "internals" / "test_planted.py").write_text(f'X = "{"x" * 100}"\n')

    ruff = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format=concise", "tests/internals"],
        cwd=service,
        capture_output=True,
        text=True,
        check=False,
    )

    assert ruff.stdout.splitlines()[:-1] == ["tests/internals/test_planted.py:1:101: E501 Line too long (106 > 100)"]
