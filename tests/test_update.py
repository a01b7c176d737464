"""`copier update`, without trust: what changed in the template arrives, and what a team wrote stays.

Where a team did not write, an updated service equals a fresh copy; where it did, a fresh copy with the same edits.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import copier
import pathspec
import pytest
import yaml

from tests.rendering import ROOT, commit, git, render
from tests.variants import DEFAULTS, QUESTIONS, VARIANTS, Answer, Answers

ANSWERS_FILE = ".copier-answers.yml"
CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))
TEMPLATE_OWNED = pathspec.PathSpec.from_lines("gitignore", [*CONFIG["_ours"], *CONFIG["_seam"]])

# The questions that decide which paths there are.
PATH_QUESTIONS = [question for question in QUESTIONS if any(question in entry for entry in CONFIG["_exclude"])]
OTHER_ANSWERS: Answers = {
    "cache_backend": "memory",
    "background_jobs": "celery",
    "pagination": "offset",
    "ci": "gitlab",
    "example": False,
    "read_replica": True,
}

OWN_DEPENDENCY = '  "httpx>=0.28",\n'
ANCHOR = re.compile(r"  # Add your own (?P<where>above|below) this line\.\n")


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def append(path: Path, text: str) -> None:
    write(path, read(path) + text)


def substitute(path: Path, pattern: str, text: str) -> None:
    """Replace the first match of `pattern`, which there must be."""
    changed, count = re.subn(pattern, text, read(path), count=1)
    assert count, f"{pattern} is not in {path}"
    write(path, changed)


def source(template: Path, path: str) -> Path:
    """The file of the template that a rendered path comes from."""
    plain = template / "template" / path
    return plain if plain.exists() else plain.with_name(f"{plain.name}.jinja")


def files(service: Path) -> dict[str, str]:
    """Every file of the service, and none of git's own."""
    paths = {path.relative_to(service).as_posix(): path for path in service.rglob("*") if path.is_file()}
    return {name: read(path) for name, path in paths.items() if not name.startswith(".git/")}


def template_owned(service: Path) -> dict[str, str]:
    """The files of the classes `ours` and `seam`."""
    return {path: text for path, text in files(service).items() if TEMPLATE_OWNED.match_file(path)}


def team_owned(service: Path) -> dict[str, str]:
    """The files of the classes `shared` and `yours`, and those that the template does not know."""
    return {path: text for path, text in files(service).items() if not TEMPLATE_OWNED.match_file(path)}


def changes(service: Path) -> list[str]:
    """What changed since the last commit, as `M path`."""
    git(service, "add", "--all")
    return (
        git(service, "diff", "--cached", "--name-status", "--no-renames", "--relative").replace("\t", " ").splitlines()
    )


def releases(template: Path, destination: Path, make_older: Callable[[Path], None]) -> Path:
    """A copy of the template with two releases: v1.0.0 is what `make_older` makes of it, v1.1.0 is as it is now."""
    shutil.copytree(template, destination)
    make_older(destination)
    commit(destination, "The older release")
    git(destination, "tag", "v1.0.0")
    git(destination, "read-tree", "--reset", "-u", "HEAD~1")
    commit(destination, "The newer release")
    git(destination, "tag", "v1.1.0")
    return destination


def start(template: Path, destination: Path, answers: Mapping[str, Any], vcs_ref: str = "HEAD") -> Path:
    """A service as a team starts it: rendered and committed."""
    service = render(template, destination, answers, vcs_ref)
    commit(service, "Start from the template")
    return service


def update(service: Path, answers: Mapping[str, Any] | None = None, vcs_ref: str | copier.VcsRef | None = None) -> None:
    """Run `copier update`, by default to the newest release, without --trust and without questions."""
    copier.run_update(
        service, data=dict(answers or {}), vcs_ref=vcs_ref, defaults=True, overwrite=True, quiet=True, unsafe=False
    )


def assert_merged(service: Path) -> None:
    assert git(service, "diff", "--name-only", "--diff-filter=U") == ""
    conflicts = {path for path, text in files(service).items() if re.search("^(<<<<<<<|>>>>>>>) ", text, re.MULTILINE)}
    assert conflicts == set()
    assert list(service.rglob("*.rej")) == []


# --- A service that nobody edited ---


def make_older(template: Path) -> None:
    """One change of each kind in each class of ownership."""
    # Ours: changed, created and deleted since.
    append(source(template, "app/core/capacity.py"), "# Older than the template.\n")
    source(template, "app/core/health.py").unlink()
    write(template / "template/app/core/removed.py", '"""Gone since."""\n')
    # Seam.
    substitute(source(template, "pyproject.toml"), r'(?<=\ndependencies = \[\n)  "[^\n]+\n', "")
    append(source(template, "app/main.py"), "# Older than the template.\n")
    # Shared, and yours: changed, created and deleted since.
    append(source(template, "app/settings.py"), "# Older than the template.\n")
    append(source(template, "README.md"), "Older than the template.\n")
    source(template, "tests/conftest.py").unlink()
    write(template / "template/migrations/versions/0000_older.py", '"""Gone since."""\n')


@pytest.mark.parametrize(
    ("variant", "directory"), [("defaults", "."), ("everything", "."), ("minimum", "services/minimum")]
)
def test_an_untouched_service_becomes_a_fresh_copy_except_in_what_is_the_teams(
    template: Path, tmp_path: Path, variant: str, directory: str
) -> None:
    template = releases(template, tmp_path / "template", make_older)
    repository = tmp_path / "repository"
    service = render(template, repository / directory, VARIANTS[variant], "v1.0.0")
    commit(repository)
    before = team_owned(service)
    update(service)
    assert_merged(service)
    assert changes(service) == [
        f"M {ANSWERS_FILE}",
        "M app/core/capacity.py",
        "A app/core/health.py",
        "D app/core/removed.py",
        "M app/main.py",
        "M pyproject.toml",
    ]
    fresh = render(template, tmp_path / "fresh", VARIANTS[variant], "v1.1.0")
    assert template_owned(service) == template_owned(fresh)
    assert team_owned(service) == before


# --- A service that a team works on ---


def make_neighbours_older(template: Path) -> None:
    """Change what lies close to where a team writes."""
    # The last dependency but one, of the first list; and one of the second.
    substitute(source(template, "pyproject.toml"), r'  "[^\n]+\n(?=  "[^\n]+\n  # Add your own )', "")
    substitute(source(template, "pyproject.toml"), r'(?<=\n  "ruff)(?=>=)', "<9,")
    substitute(source(template, "app/main.py"), r'^"""', '"""Older: ')
    substitute(source(template, "app/main.py"), r"    description=[^\n]+\n(?=\)\n)", "")
    substitute(source(template, "noxfile.py"), r'^"""', '"""Older: ')
    append(source(template, "app/settings.py"), "# Older than the template.\n")
    append(source(template, "README.md"), "Older than the template.\n")


def add_dependencies(service: Path) -> None:
    """Add one to each of the two lists, where the lists say."""

    def add(anchor: re.Match[str]) -> str:
        lines = [OWN_DEPENDENCY, anchor[0]]
        return "".join(lines if anchor["where"] == "above" else reversed(lines))

    text, count = ANCHOR.subn(add, read(service / "pyproject.toml"))
    assert count == 2
    write(service / "pyproject.toml", text)


def work(service: Path) -> None:
    """What a team writes at each of the places made for it, and their own domain."""
    add_dependencies(service)
    substitute(service / "app/main.py", r"(?<=\nfrom app\.api import router\n)", "from app.clock import Clock\n")
    append(service / "app/main.py", "app.add_middleware(Clock)\n")
    append(service / "noxfile.py", "\n\n@nox.session\ndef ours(session): ...\n")
    append(service / "app/api.py", "router.include_router(orders)\n")
    append(service / "app/settings.py", '\n\nGREETING = "hello"\n')
    append(service / "tests/conftest.py", "\nFIXTURE = 1\n")
    write(service / "app/clock.py", "class Clock: ...\n")
    write(service / "app/orders/router.py", "from fastapi import APIRouter\n\nrouter = APIRouter()\n")
    write(service / "tests/orders/test_orders.py", "def test_orders(): ...\n")
    write(service / "migrations/versions/0002_orders.py", '"""Orders."""\n')
    write(service / "README.md", "Ours, from the first word to the last.\n")


def test_what_a_team_wrote_at_the_places_made_for_it_survives_changes_next_to_it(
    template: Path, tmp_path: Path
) -> None:
    template = releases(template, tmp_path / "template", make_neighbours_older)
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    work(service)
    commit(service)
    before = team_owned(service)
    update(service)
    assert_merged(service)
    fresh = render(template, tmp_path / "fresh", {}, "v1.1.0")
    work(fresh)
    assert template_owned(service) == template_owned(fresh)
    assert team_owned(service) == before

    commit(service)
    update(service)
    assert changes(service) == [], "a second update changes nothing"


def test_what_a_team_wrote_survives_when_the_template_appends_to_the_same_list(template: Path, tmp_path: Path) -> None:
    def make_lists_shorter(template: Path) -> None:
        substitute(source(template, "pyproject.toml"), r'  "[^\n]+\n(?=  # Add your own )', "")

    template = releases(template, tmp_path / "template", make_lists_shorter)
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    add_dependencies(service)
    commit(service)
    update(service)
    assert_merged(service)
    fresh = render(template, tmp_path / "fresh", {}, "v1.1.0")
    add_dependencies(fresh)
    assert template_owned(service) == template_owned(fresh)


def test_what_a_team_deleted_stays_deleted_except_what_the_template_imports(template: Path, tmp_path: Path) -> None:
    template = releases(template, tmp_path / "template", make_older)
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    for directory in ("app/users", "app/posts", "app/dashboard", "tests/users", "tests/posts", "tests/dashboard"):
        shutil.rmtree(service / directory)
    for path in ("app/seed.py", "migrations/versions/0001_users_and_posts.py", "README.md", "app/core/logs.py"):
        (service / path).unlink()
    write(service / "app/api.py", "from fastapi import APIRouter\n\nrouter = APIRouter()\n")
    before = team_owned(service)
    (service / "app/settings.py").unlink()
    commit(service)
    update(service)
    assert_merged(service)
    fresh = render(template, tmp_path / "fresh", {}, "v1.1.0")
    assert team_owned(service) == before | {"app/settings.py": read(fresh / "app/settings.py")}
    assert template_owned(fresh).items() - template_owned(service).items() == {
        ("app/core/logs.py", read(fresh / "app/core/logs.py"))
    }


def test_a_service_with_uncommitted_work_is_refused_and_left_as_it_was(home: Path, tmp_path: Path) -> None:
    service = Path(shutil.copytree(home, tmp_path / "service"))
    append(service / "app/main.py", "# Not committed\n")
    write(service / "new.py", "# Not committed either\n")
    before = files(service), git(service, "status", "--porcelain")
    process = subprocess.run(
        [sys.executable, "-m", "copier", "update", "--defaults", "--vcs-ref=:current:", "-d", "cache_backend=none"],
        cwd=service,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert process.returncode != 0
    assert "Destination repository is dirty; cannot continue." in process.stderr
    assert "Traceback" not in process.stderr
    assert (files(service), git(service, "status", "--porcelain")) == before


# --- A service that is older than a question ---

TAG = re.compile(r"\{[{%].*?[%}]\}", re.DOTALL)


def forget(template: Path, answers: Answers) -> None:
    """Make of the template one in which these questions were never asked, and every service had these answers."""
    config = yaml.safe_load(read(template / "copier.yml"))
    for question in answers:
        del config[question]
    write(template / "copier.yml", yaml.safe_dump(resolve(config, answers), sort_keys=False, allow_unicode=True))
    for path in (template / "template").rglob("*.jinja"):
        write(path, resolve(read(path), answers))


def resolve(value: Any, answers: Answers) -> Any:
    """Write the answers into every Jinja tag that names their questions."""
    if isinstance(value, dict):
        return {key: resolve(item, answers) for key, item in value.items()}
    if isinstance(value, list):
        return [resolve(item, answers) for item in value]
    if isinstance(value, str):
        names = re.compile(rf"\b({'|'.join(answers)})\b")
        return TAG.sub(lambda tag: names.sub(lambda name: repr(answers[name[0]]), tag[0]), value)
    return value


def test_each_question_that_decides_about_paths_has_another_answer_in_these_tests() -> None:
    assert list(OTHER_ANSWERS) == PATH_QUESTIONS


@pytest.mark.parametrize("unknown", PATH_QUESTIONS)
def test_a_new_question_with_its_default_changes_nothing_in_an_older_service(
    template: Path, tmp_path: Path, unknown: str
) -> None:
    template = releases(
        template, tmp_path / "template", lambda template: forget(template, {unknown: DEFAULTS[unknown]})
    )
    # The other answers are not the defaults: conditions that name two questions then look at both.
    answers = {question: answer for question, answer in OTHER_ANSWERS.items() if question != unknown}
    service = start(template, tmp_path / "service", answers, "v1.0.0")
    update(service)
    assert changes(service) == [f"M {ANSWERS_FILE}"]
    recorded = yaml.safe_load(read(service / ANSWERS_FILE))
    assert {question: recorded[question] for question in PATH_QUESTIONS} == {**answers, unknown: DEFAULTS[unknown]}


def test_a_new_question_brings_what_its_default_gives_to_an_older_service(template: Path, tmp_path: Path) -> None:
    older: Answers = {"cache_backend": "none", "background_jobs": "background_tasks", "pagination": "offset"}
    template = releases(template, tmp_path / "template", lambda template: forget(template, older))
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    before = team_owned(service)
    assert "app/core/cache/__init__.py" not in files(service)
    update(service)
    assert_merged(service)
    fresh = render(template, tmp_path / "fresh", {}, "v1.1.0")
    assert template_owned(service) == template_owned(fresh)
    assert team_owned(service) == before


# --- Other answers ---

JOURNEYS: dict[str, list[Answers]] = {
    **{
        question: [{question: answer} for answer in QUESTIONS[question][1:]]
        for question in PATH_QUESTIONS
        if question != "example"
    },
    "words, numbers and the example": [
        {
            "example": False,
            "project_name": "Another Name",
            "description": "Another 'description' & {{ more }}",
            "project_slug": "another-slug",
            "cpu_cores": 4,
            "workers_per_core": 1.5,
            "db_max_connections": 60,
            "instances": 2,
        }
    ],
}
HOME: Answers = {
    "project_name": "My Service",
    "description": "A fast FastAPI service",
    "project_slug": "my-service",
    **DEFAULTS,
}


def test_the_journeys_visit_every_answer() -> None:
    visited: dict[str, set[Answer]] = {question: {answer} for question, answer in HOME.items()}
    for stops in JOURNEYS.values():
        for question, answer in (item for stop in stops for item in stop.items()):
            visited[question].add(answer)
    assert all(len(visited[question]) >= len(QUESTIONS.get(question, (1, 2))) for question in HOME)
    assert sorted(HOME) == sorted(name for name in CONFIG if name[0] != "_" and CONFIG[name].get("when") is not False)


@pytest.fixture(scope="module")
def home(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service that every journey starts from; a test copies it."""
    return start(template, tmp_path_factory.mktemp("home"), HOME)


@pytest.mark.parametrize("journey", JOURNEYS)
def test_an_answer_that_is_changed_and_changed_back_leaves_a_fresh_copy_each_time(
    template: Path, home: Path, tmp_path: Path, journey: str
) -> None:
    service = Path(shutil.copytree(home, tmp_path / "service"))
    before = template_owned(service), team_owned(service)
    for number, answers in enumerate(JOURNEYS[journey]):
        update(service, answers, copier.VcsRef.CURRENT)
        assert_merged(service)
        fresh = render(template, tmp_path / f"fresh-{number}", HOME | answers)
        assert template_owned(service) == template_owned(fresh)
        commit(service)
    update(service, HOME, copier.VcsRef.CURRENT)
    assert (template_owned(service), team_owned(service)) == before


def test_an_answer_that_does_not_fit_the_others_changes_none_of_them_in_silence(template: Path, tmp_path: Path) -> None:
    service = start(template, tmp_path / "service", {"cpu_cores": 4, "instances": 4})
    # 4 instances of 4 workers, and 5 connections in reserve, need 21: the service says so when it starts.
    update(service, {"db_max_connections": 20}, copier.VcsRef.CURRENT)
    answers = yaml.safe_load((service / ".copier-answers.yml").read_text())
    assert {key: answers[key] for key in ("cpu_cores", "instances", "db_max_connections")} == {
        "cpu_cores": 4,
        "instances": 4,
        "db_max_connections": 20,
    }
