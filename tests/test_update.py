"""`copier update`: changes of the template arrive, and the team's work stays.

Where a team did not write, an updated service equals a fresh copy; where it did, a fresh copy with the same edits. The
run ends with a table: for each case, the number of updated services, and the fate of their edits.
"""

import os
import re
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import copier
import pytest
import yaml
from copier.errors import UnsafeTemplateError

from tests.edits import COMMENTS, UNMARKED, files, grow, mark, ruff, team_owned, template_owned
from tests.history import (
    CHOSEN,
    CONTESTED,
    MOVED,
    OLDEST,
    PRESENT,
    REMOVED,
    RENAMED_CHOICE,
    RENAMED_QUESTION,
    VERSIONS,
    after,
    answers_at,
    append,
    before,
    forget,
    read,
    substitute,
    write,
)
from tests.quick_copier import COPIER
from tests.rendering import ROOT, commit, git, render
from tests.selection import thorough
from tests.updates import ANSWERS_FILE, Tally, changes, conflicts, listed, restored, update, upgrade
from tests.variants import DEFAULTS, QUESTIONS, VARIANTS, Answer, Answers

CONFIG: dict[str, Any] = yaml.safe_load((ROOT / "copier.yml").read_text(encoding="utf-8"))

Made = Callable[[str, str], Path]

# The questions that decide which paths there are.
PATH_QUESTIONS = [question for question in QUESTIONS if any(question in entry for entry in CONFIG["_exclude"])]
OTHER_ANSWERS: Answers = {
    "cache_backend": "memory",
    "background_jobs": "celery",
    "pagination": "offset",
    "auth": "jwt",
    "deployment": "kubernetes",
    "ci": "gitlab",
    "example": False,
    "read_replica": True,
    "rate_limits": True,
    "idempotency": True,
    "static_files": True,
    "metrics": "none",
    "tracing": True,
    "http_client": False,
    "outbox": False,
}
CI = ".github/workflows/ci.yml"
# The command that leads back to the last commit, as an update and the hooks print it.
UNDO: str = re.findall(r"^  (git reset .+)$", CONFIG["_message_before_update"], re.MULTILINE)[0]
HARDEST = "everything"
# Removed since, without a hook: of ours, where no team has a reason to write.
DROPPED = "app/core/unused.py"


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


def copy(service: Path, destination: Path) -> Path:
    return Path(shutil.copytree(service, destination))


# --- A service without edits ---


def fresh_copy(service: Path, version: str) -> dict[str, str]:
    """Return the template's files in a new service of this version, and files handed over to older ones."""
    return template_owned(service) | ({REMOVED: REMOVED_TEXT} if version == PRESENT else {})


REMOVED_TEXT = '"""Gone since."""\n\n\ndef useful() -> int:\n    return 1\n'


@pytest.mark.parametrize("start", thorough([OLDEST, VERSIONS[-3]], but=[VERSIONS[-3]]))
def test_an_untouched_service_equals_a_fresh_copy_after_every_version(
    history: Path, made: Made, tmp_path: Path, tally: Tally, start: str
) -> None:
    answers = VARIANTS["everything"]
    # Not at the root of its repository.
    service = tmp_path / "repository/services/everything"
    render(history, service, answers_at(start, answers), start)
    commit(tmp_path / "repository")
    assert git(service, "status", "--porcelain", "--ignored") == "", "git ignores what the template brings"
    team = team_owned(service)
    for version in VERSIONS[VERSIONS.index(start) + 1 :]:
        upgrade(service, answers, version)
        assert not tally.count(service)
        assert not conflicts(service)
        assert template_owned(service) == fresh_copy(made("everything", version), version)
        assert team_owned(service) == team
        commit(tmp_path / "repository", version)


@pytest.mark.parametrize(
    ("variant", "version"),
    thorough(zip(VARIANTS, VERSIONS[1:-1], strict=False), but=[(HARDEST, before("added question"))]),
)
def test_an_untouched_service_of_any_version_equals_a_fresh_copy_after_one_update(
    made: Made, tmp_path: Path, tally: Tally, variant: str, version: str
) -> None:
    service = copy(made(variant, version), tmp_path / "service")
    team = team_owned(service)
    upgrade(service, VARIANTS[variant])
    assert not tally.count(service)
    assert not conflicts(service)
    assert template_owned(service) == fresh_copy(made(variant, PRESENT), PRESENT)
    assert team_owned(service) == team


# --- A service that a team works on ---


@pytest.mark.parametrize("variant", thorough(VARIANTS, but=["defaults", HARDEST]))
def test_edits_at_every_extension_point_and_in_every_file_of_the_team_stay_without_a_conflict(
    made: Made, oldest: Callable[[str], Path], tmp_path: Path, tally: Tally, variant: str
) -> None:
    service = copy(oldest(variant), tmp_path / "service")
    grow(service)
    marks = mark(service, team_owned(service))
    commit(service)
    team = team_owned(service)
    upgrade(service, VARIANTS[variant])
    assert not tally.count(service, marks)
    assert not conflicts(service)
    fresh = copy(made(variant, PRESENT), tmp_path / "fresh")
    grow(fresh)
    assert template_owned(service) == template_owned(fresh) | {REMOVED: REMOVED_TEXT}
    assert team_owned(service) == team

    if variant == "defaults":
        commit(service)
        update(service)
        assert changes(service) == [], "a second update changes nothing"


@pytest.mark.parametrize("variant", thorough(["defaults", "minimum", HARDEST], but=[HARDEST]))
def test_edits_in_files_of_the_template_merge_or_conflict_visibly(
    oldest: Callable[[str], Path], tmp_path: Path, tally: Tally, variant: str
) -> None:
    service = copy(oldest(variant), tmp_path / "service")
    marks = mark(service)
    commit(service)
    upgrade(service, VARIANTS[variant])
    assert not tally.count(service, marks)
    # Where the template changed the same lines: never in silence, and only there.
    chosen = {path for path in template_owned(service) if CHOSEN.fullmatch(path) and path in marks.values()}
    assert conflicts(service) == CONTESTED - {MOVED[0]} | chosen
    # The update lists files that no hook has handed over, and the printed command restores them.
    assert {DROPPED} <= listed(service, "D") <= {DROPPED, MOVED[0]}
    assert all(token in restored(service, DROPPED) for token, path in marks.items() if path == DROPPED)


def test_every_kind_of_file_can_be_marked_or_says_why_not(made: Made) -> None:
    paths = {path for variant in ("everything", "defaults") for path in files(made(variant, PRESENT))}
    kinds = {Path(path).suffix or Path(path).name for path in paths if path not in UNMARKED}
    # JSON has no comments.
    assert kinds <= {*COMMENTS, ".json"}
    assert set(UNMARKED) <= paths


def delete_example(service: Path) -> None:
    for directory in ("app/users", "app/posts", "app/dashboard", "tests/users", "tests/posts", "tests/dashboard"):
        shutil.rmtree(service / directory)
    for path in ("app/seed.py", "migrations/versions/0001_users_and_posts.py"):
        (service / path).unlink()
    write(service / "app/api.py", "from fastapi import APIRouter\n\nrouter = APIRouter()\n")


def test_what_a_team_deleted_stays_deleted_except_what_the_template_imports(
    made: Made, oldest: Callable[[str], Path], tmp_path: Path, tally: Tally
) -> None:
    service = copy(oldest("defaults"), tmp_path / "service")
    delete_example(service)
    # The template has changed the last of them. `app/api.py` would import the example, which is deleted.
    for path in ("README.md", "app/api.py", "app/core/telemetry/logs.py"):
        (service / path).unlink()
    team = team_owned(service)
    (service / "app/settings.py").unlink()
    commit(service)
    upgrade(service, {})
    assert not tally.count(service)
    assert not conflicts(service)
    fresh = made("defaults", PRESENT)
    assert team_owned(service) == team | {"app/settings.py": read(fresh / "app/settings.py")}
    assert template_owned(fresh).items() - template_owned(service).items() == {
        ("app/core/telemetry/logs.py", read(fresh / "app/core/telemetry/logs.py"))
    }


def settle_in(service: Path) -> None:
    """Make the edits of a team's first week."""
    delete_example(service)
    grow(service)
    pyproject = service / "pyproject.toml"
    substitute(pyproject, r'(?<=\nname = )"[^"]+"', '"renamed-by-hand"')
    substitute(pyproject, r'(?<=\nversion = )"[^"]+"', '"2.7.1"')
    substitute(pyproject, r'(?<=\ndescription = )"[^"]+"', '"What it really does"')
    substitute(pyproject, r'(?<=\nrequires-python = )"[^"]+"', '">=3.13"')
    substitute(pyproject, r'(?<=\ntarget-version = )"[^"]+"', '"py313"')
    substitute(pyproject, r'(?<=\npython_version = )"[^"]+"', '"3.13"')
    ruff(service, "format")


def test_a_team_that_formatted_renamed_and_deleted_the_example_has_no_conflict(
    made: Made, oldest: Callable[[str], Path], tmp_path: Path, tally: Tally
) -> None:
    service = copy(oldest("defaults"), tmp_path / "service")
    ruff(service, "format")
    assert changes(service) == [], "what is rendered is formatted already"
    settle_in(service)
    commit(service)
    team = team_owned(service)
    upgrade(service, {})
    assert not tally.count(service)
    assert not conflicts(service)
    fresh = copy(made("defaults", PRESENT), tmp_path / "fresh")
    settle_in(fresh)
    assert template_owned(service) == template_owned(fresh) | {REMOVED: REMOVED_TEXT}
    assert team_owned(service) == team
    # Another name by its answer: it arrives where the team has not written its own.
    commit(service)
    update(service, {"project_name": "Another Name"}, copier.VcsRef.CURRENT)
    assert not conflicts(service)
    assert 'title="Another Name"' in read(service / "app/main.py")
    assert 'name = "renamed-by-hand"' in read(service / "pyproject.toml")


# --- Work that Copier alone would lose ---


def test_a_migration_keeps_what_copier_alone_loses(
    history: Path, unprotected: Path, tmp_path: Path, tally: Tally
) -> None:
    question, _, choice = RENAMED_CHOICE
    answers: Answers = {RENAMED_QUESTION[1]: "offset", question: choice}
    version = before("renamed question")

    def kept(template: Path, trust: bool) -> dict[str, bool]:
        service = start(template, tmp_path / template.name, answers_at(version, answers), version)
        marks = mark(service, [MOVED[0], REMOVED], ends=("top",))
        commit(service)
        update(service, vcs_ref=PRESENT, trust=trust)
        assert conflicts(service) == set()
        if trust:
            assert not tally.count(service, marks)
        recorded = yaml.safe_load(read(service / ANSWERS_FILE))
        text = "".join(files(service).values())
        return {
            "renamed question": recorded[RENAMED_QUESTION[1]] == "offset"
            and (service / "app/core/pagination/offset.py").exists(),
            "renamed choice": recorded[question] == choice and (service / "app/core/jobs/celery_worker.py").exists(),
            "moved file": [token in read(service / MOVED[1]) for token, path in marks.items() if path == MOVED[0]]
            == [True],
            "removed file": [token in text for token, path in marks.items() if path == REMOVED] == [True],
        }

    assert set(kept(history, trust=True).values()) == {True}
    assert set(kept(unprotected, trust=False).values()) == {False}, "Copier has learnt something: see which hook can go"


def test_a_removed_file_that_is_listed_stays_without_any_trust(template: Path, tmp_path: Path, tally: Tally) -> None:
    def add(template: Path) -> None:
        write(template / "template" / REMOVED, REMOVED_TEXT)

    template = releases(template, tmp_path / "template", add)
    config = yaml.safe_load(read(template / "copier.yml"))
    config["_exclude"].append(f"/{REMOVED}")
    write(template / "copier.yml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    commit(template, "Let it go")
    git(template, "tag", "v1.2.0")
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    marks = mark(service, [REMOVED])
    commit(service)
    update(service)
    assert not tally.count(service, marks)
    assert read(service / REMOVED).count("kept.") == len(marks)


def test_a_new_file_of_the_template_and_the_teams_own_of_that_name_are_a_conflict_with_both_in_it(
    template: Path, tmp_path: Path, tally: Tally
) -> None:
    template = releases(template, tmp_path / "template", lambda template: append(template / "README.md", "Older.\n"))
    write(template / "template/stack.yaml", "services:\n  web:\n    build: .\n")
    commit(template, "Bring servers")
    git(template, "tag", "v1.2.0")
    service = start(template, tmp_path / "service", {}, "v1.1.0")
    write(service / "stack.yaml", "services:\n  mail:\n    image: mail\n")
    marks = mark(service, ["stack.yaml"])
    commit(service)
    update(service)
    assert not tally.count(service, marks)
    assert conflicts(service) == {"stack.yaml"}
    text = read(service / "stack.yaml")
    assert "image: mail" in text
    assert "build: ." in text


def test_an_update_that_runs_a_migration_asks_for_trust_and_changes_nothing_without(
    oldest: Callable[[str], Path], tmp_path: Path
) -> None:
    service = copy(oldest("defaults"), tmp_path / "service")
    with pytest.raises(UnsafeTemplateError, match="migrations"):
        update(service, vcs_ref=PRESENT)
    assert changes(service) == []


# --- Updates that do not end ---


def run_copier(service: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`copier update`, as a process of its own."""
    return subprocess.run(
        [*COPIER, "update", "--defaults", *arguments],
        cwd=service,
        env=os.environ | {"PATH": os.pathsep.join(filter(None, [path, os.environ["PATH"]]))},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        # A signal to the whole group must not reach the tests.
        start_new_session=True,
        # A shell starts a background job with SIGINT ignored, and the process would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_a_service_with_uncommitted_work_is_refused_and_left_as_it_was(home: Path, tmp_path: Path) -> None:
    service = copy(home, tmp_path / "service")
    append(service / "app/main.py", "# Not committed\n")
    write(service / "new.py", "# Not committed either\n")
    state = files(service), git(service, "status", "--porcelain")
    process = run_copier(service, "--vcs-ref=:current:", "-d", "cache_backend=none")
    assert process.returncode != 0
    assert "Destination repository is dirty; cannot continue." in process.stderr
    assert "Traceback" not in process.stderr
    assert (files(service), git(service, "status", "--porcelain")) == state


# Of all the git commands that an update runs, the one during which it ends, and how: before it, or behind it.
MOMENTS = {
    "nothing is written": ("write-tree", "before", "KILL"),
    "the new version is written, what the team wrote is not in it": ("apply", "before", "KILL"),
    "the same, by Ctrl-C": ("apply", "before", "INT"),
    "what the team wrote is half in it": ("apply", "after", "KILL"),
    "a conflict is being written": ("merge-file", "after", "KILL"),
}
INTERRUPTING = """#!/bin/sh
for word in "$@"; do
  if [ "$word" = {command} ]; then
    [ {when} = after ] && {git} "$@"
    kill -{signal} {target}
    exit 1
  fi
done
exec {git} "$@"
"""


@pytest.mark.skipif(os.name == "nt", reason="signals, and a shell script in the place of git")
@pytest.mark.parametrize("moment", thorough(MOMENTS, but=["the same, by Ctrl-C", "a conflict is being written"]))
def test_an_interrupted_update_says_the_way_back_and_loses_nothing(
    oldest: Callable[[str], Path], tmp_path: Path, tally: Tally, moment: str
) -> None:
    service = copy(oldest("minimum"), tmp_path / "service")
    marks = mark(service)
    write(service / ".env", "# Ignored by git, and nowhere else.\n")
    commit(service)
    state = files(service)
    command, when, name = MOMENTS[moment]
    # Ctrl-C reaches all processes of a terminal.
    text = INTERRUPTING.format(
        command=command, when=when, signal=name, git=shutil.which("git"), target="0" if name == "INT" else "$PPID"
    )
    write(tmp_path / "bin/git", text)
    (tmp_path / "bin/git").chmod(stat.S_IRWXU)
    version = after("changed files")
    process = run_copier(service, f"--vcs-ref={version}", path=str(tmp_path / "bin"))
    assert process.returncode in (-signal.SIGKILL, -signal.SIGINT, 1, 130)
    # As the message behind an update begins.
    assert "is updated, and nothing is committed" in CONFIG["_message_after_update"]
    assert "is updated, and nothing is committed" not in process.stderr
    if command != "write-tree":
        assert files(service) != state
        refused = run_copier(service, f"--vcs-ref={version}")
        assert refused.returncode != 0
        assert "Destination repository is dirty" in refused.stderr
    assert f"\n  {UNDO}\n" in process.stderr
    subprocess.run(UNDO, shell=True, cwd=service, check=True, capture_output=True, timeout=30)  # noqa: S602
    assert files(service) == state
    assert git(service, "status", "--porcelain") == ""
    if moment == list(MOMENTS)[-1]:
        update(service, vcs_ref=version)
        assert not tally.count(service, marks)
        assert conflicts(service)


def test_the_way_back_changes_nothing_outside_of_the_service(tmp_path: Path) -> None:
    for name in ("services/orders/app.py", "services/mail/app.py", "README.md"):
        write(tmp_path / name, "Committed\n")
    commit(tmp_path)
    state = files(tmp_path / "services/orders")
    for name in ("services/orders", "services/mail"):
        append(tmp_path / name / "app.py", "Edited\n")
        write(tmp_path / name / "new.py", "New\n")
    append(tmp_path / "README.md", "Edited\n")
    git(tmp_path, "add", "services/orders", "README.md")
    neighbours = files(tmp_path / "services/mail"), read(tmp_path / "README.md")
    subprocess.run(UNDO, shell=True, cwd=tmp_path / "services/orders", check=True, timeout=30)  # noqa: S602
    assert files(tmp_path / "services/orders") == state
    assert (files(tmp_path / "services/mail"), read(tmp_path / "README.md")) == neighbours
    assert git(tmp_path, "status", "--porcelain") == "M  README.md\n M services/mail/app.py\n?? services/mail/new.py\n"


@pytest.mark.skipif(os.name == "nt", reason="Python writes these line ends there by itself")
def test_an_editor_that_writes_other_line_ends_causes_no_conflict(
    made: Made, oldest: Callable[[str], Path], tmp_path: Path
) -> None:
    service = copy(oldest("minimum"), tmp_path / "service")
    path = service / "app/core/telemetry/logs.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + b"# Ours\r\n")
    commit(service)
    assert "i/crlf" not in git(service, "ls-files", "--eol")
    update(service, vcs_ref=after("changed files"))
    assert not conflicts(service) & {"app/core/telemetry/logs.py"}
    assert read(path) == read(made("minimum", PRESENT) / "app/core/telemetry/logs.py") + "# Ours\n"


# --- A service that is older than a question ---


def test_each_question_that_decides_about_paths_has_another_answer_in_these_tests() -> None:
    assert list(OTHER_ANSWERS) == PATH_QUESTIONS


@pytest.mark.parametrize("unknown", thorough(PATH_QUESTIONS, but=["cache_backend"]))
def test_a_new_question_with_its_default_changes_nothing_in_an_older_service(
    template: Path, tmp_path: Path, tally: Tally, unknown: str
) -> None:
    template = releases(
        template, tmp_path / "template", lambda template: forget(template, {unknown: DEFAULTS[unknown]})
    )
    # The other answers are not the defaults: conditions that name two questions then look at both.
    answers = {question: answer for question, answer in OTHER_ANSWERS.items() if question != unknown}
    service = start(template, tmp_path / "service", answers, "v1.0.0")
    update(service)
    assert not tally.count(service)
    assert changes(service) == [f"M {ANSWERS_FILE}"]
    recorded = yaml.safe_load(read(service / ANSWERS_FILE))
    assert {question: recorded[question] for question in PATH_QUESTIONS} == {**answers, unknown: DEFAULTS[unknown]}


def test_a_new_question_brings_what_its_default_gives_to_an_older_service(
    template: Path, tmp_path: Path, tally: Tally
) -> None:
    older: Answers = {"cache_backend": "none", "background_jobs": "background_tasks", "pagination": "offset"}
    template = releases(template, tmp_path / "template", lambda template: forget(template, older))
    service = start(template, tmp_path / "service", {}, "v1.0.0")
    team = team_owned(service)
    assert "app/core/cache/cached.py" not in files(service)
    update(service)
    assert not tally.count(service)
    assert not conflicts(service)
    fresh = render(template, tmp_path / "fresh", {}, "v1.1.0")
    assert template_owned(service) == template_owned(fresh)
    assert team_owned(service) == team


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
AT_ONCE = "all at once"
JOURNEYS[AT_ONCE] = [OTHER_ANSWERS | JOURNEYS["words, numbers and the example"][0]]
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
    """The service that every journey starts from, with a team's code in it; a test copies it."""
    service = start(template, tmp_path_factory.mktemp("home"), HOME)
    grow(service)
    commit(service)
    return service


@pytest.mark.parametrize("journey", thorough(JOURNEYS, but=[AT_ONCE]))
def test_an_answer_that_is_changed_and_changed_back_leaves_a_fresh_copy_and_all_edits_each_time(
    template: Path, home: Path, tmp_path: Path, tally: Tally, journey: str
) -> None:
    service = copy(home, tmp_path / "service")
    ours, team = template_owned(service), team_owned(service)
    for number, answers in enumerate(JOURNEYS[journey]):
        update(service, answers, copier.VcsRef.CURRENT)
        assert not tally.count(service)
        assert not conflicts(service)
        fresh = render(template, tmp_path / f"fresh-{number}", HOME | answers)
        grow(fresh)
        assert template_owned(service) == template_owned(fresh)
        assert team_owned(service) == team
        commit(service)
    update(service, HOME, copier.VcsRef.CURRENT)
    assert not tally.count(service)
    if journey in ("ci", AT_ONCE):
        # It was deleted, with the team's job in it, and is a new file now.
        ours[CI] = read(render(template, tmp_path / "fresh", HOME) / CI)
    assert (template_owned(service), team_owned(service)) == (ours, team)


def test_a_file_that_another_answer_deletes_is_listed_with_what_brings_it_back(
    home: Path, tmp_path: Path, tally: Tally
) -> None:
    service = copy(home, tmp_path / "service")
    marks = mark(service)
    commit(service)
    update(service, {"cache_backend": "none"}, copier.VcsRef.CURRENT)
    deleted = listed(service, "D")
    assert "app/core/cache/cached.py" in deleted
    assert not tally.count(service, marks)
    for path in deleted:
        assert all(token in restored(service, path) for token, marked in marks.items() if marked == path)


def test_an_answer_that_does_not_fit_the_others_changes_none_of_them_in_silence(template: Path, tmp_path: Path) -> None:
    service = start(template, tmp_path / "service", {"cpu_cores": 4, "instances": 4})
    # 4 instances of 4 workers, and 5 connections in reserve, need 21: the service says so when it starts.
    update(service, {"db_max_connections": 20}, copier.VcsRef.CURRENT)
    answers = yaml.safe_load(read(service / ANSWERS_FILE))
    assert {key: answers[key] for key in ("cpu_cores", "instances", "db_max_connections")} == {
        "cpu_cores": 4,
        "instances": 4,
        "db_max_connections": 20,
    }
