"""The lists of owners in copier.yml (ours, seam, shared, yours) match the rendered files."""

import re
from collections.abc import Callable
from pathlib import Path

import pathspec
import pytest

from tests.ownership import BY_UPDATE, CONFIG, OWNERS
from tests.variants import DEFAULTS, VARIANTS, Answers

QUESTIONS = [key for key in CONFIG if not key.startswith("_")]

# Python's own leftovers, which a template that was run in place may hold.
LEFTOVERS = ["__pycache__", "*.py[co]"]
BY_ANSWER = re.compile(r"\{% if (?P<condition>(?P<question>\w+) is defined and [^%]+) %\}(?P<path>/\S+)\{% endif %\}")

ENTRIES = [entry for entry in CONFIG["_exclude"] if entry not in LEFTOVERS]
BY_ANSWER_MATCHES = [match for entry in ENTRIES if (match := BY_ANSWER.fullmatch(entry))]


@pytest.fixture(scope="module")
def paths_of(rendered: Callable[[Answers], Path]) -> dict[str, set[str]]:
    """The paths of every variant; an empty directory is one too, and ends with a slash."""
    paths = {}
    for name, answers in VARIANTS.items():
        service = rendered(DEFAULTS | answers)
        leaves = [path for path in service.rglob("*") if path.is_file() or not any(path.iterdir())]
        paths[name] = {f"{path.relative_to(service).as_posix()}{'/' * path.is_dir()}" for path in leaves}
    return paths


def matches(pattern: str, paths: set[str]) -> set[str]:
    """The paths that a pattern means, read like .gitignore as Copier reads it."""
    return set(pathspec.PathSpec.from_lines("gitignore", [pattern]).match_files(paths))


def test_every_rendered_path_has_exactly_one_owner(paths_of: dict[str, set[str]]) -> None:
    paths = {path for variant in paths_of.values() for path in variant if not path.endswith("/")}
    owners: dict[str, list[str]] = {path: [] for path in paths}
    for owner, patterns in OWNERS.items():
        for path in set[str]().union(*(matches(pattern, paths) for pattern in patterns)):
            owners[path].append(owner)
    assert {path: found for path, found in owners.items() if len(found) != 1} == {}


@pytest.mark.parametrize("owner", OWNERS)
def test_an_owner_has_no_pattern_without_a_path_and_none_twice(owner: str, paths_of: dict[str, set[str]]) -> None:
    paths = {path for variant in paths_of.values() for path in variant if not path.endswith("/")}
    assert OWNERS[owner]
    assert [pattern for pattern in OWNERS[owner] if not matches(pattern, paths)] == []
    assert len(OWNERS[owner]) == len(set(OWNERS[owner]))


@pytest.mark.parametrize("owner", OWNERS)
def test_an_owner_names_paths_from_the_root(owner: str) -> None:
    assert [pattern for pattern in OWNERS[owner] if not pattern.startswith("/")] == []


def test_every_entry_that_leaves_out_a_path_has_one_of_two_forms() -> None:
    assert [entry for entry in ENTRIES if not BY_ANSWER.fullmatch(entry) and not BY_UPDATE.fullmatch(entry)] == []


@pytest.mark.parametrize("match", BY_ANSWER_MATCHES, ids=lambda match: match["path"])
def test_an_entry_asks_first_whether_an_older_service_knows_its_questions(match: re.Match[str]) -> None:
    named = {word for word in re.findall(r"\w+", re.sub(r"'[^']*'", "", match["condition"])) if word in QUESTIONS}
    guarded = set(re.findall(r"(\w+) is defined and", match["condition"]))
    assert match["question"] in named
    assert named == guarded


def test_a_directory_that_is_left_out_leaves_no_empty_one_behind(paths_of: dict[str, set[str]]) -> None:
    # Copier matches the directory itself without a slash at its end: an entry with one matches only what is in it.
    empty = {variant: {path for path in paths if path.endswith("/")} for variant, paths in paths_of.items()}
    assert {variant: paths for variant, paths in empty.items() if paths} == {}


@pytest.mark.parametrize("match", BY_ANSWER_MATCHES, ids=lambda match: match["path"])
def test_an_answer_leaves_out_a_path_that_another_answer_brings(
    match: re.Match[str], paths_of: dict[str, set[str]]
) -> None:
    bringing = {
        variant
        for variant, paths in paths_of.items()
        if any(not path.endswith("/") for path in matches(match["path"], paths))
    }
    assert set() < bringing < set(VARIANTS)


def test_no_entry_leaves_out_the_same_path_for_the_same_reason_as_another() -> None:
    assert len(ENTRIES) == len(set(ENTRIES))


def test_what_the_docs_leave_to_teams_is_never_rendered(paths_of: dict[str, set[str]]) -> None:
    paths = set[str]().union(*paths_of.values())
    assert matches("/grafana/", paths) == set(), "docs/ownership.md says that this directory is a team's own"
    assert matches("compose.*.y*ml", paths) == set(), "docs/ownership.md says that this file is a team's own"
