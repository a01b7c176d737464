"""Decisions of the fleet: its members, the lines that count as the team's, and the failures."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.edits import BLOCKS, Domain, grow, ruff
from tests.fleet import GUARDS, NOUNS, Member, Result, Suite, added_lines, commands, main, members, problems, report
from tests.history import OLDEST, VERSIONS
from tests.ownership import CONFIG
from tests.rendering import ROOT, render
from tests.variants import DEFAULTS, HARDEST, QUESTIONS, VARIANTS, WITHOUT_PYTHON

MEMBER = Member("orders-1", "defaults", OLDEST, Domain("orders", "order"), edits_in_ours=2, seed=1)
GREEN = Result(MEMBER, deletions=frozenset({"app/core/gone.py"}), suite="green", seconds=61.4)


def test_the_same_seed_makes_the_same_fleet_and_another_seed_another() -> None:
    assert members(20, seed=1) == members(20, seed=1)
    assert members(20, seed=1) != members(20, seed=2)
    # One that grows keeps those that it had.
    assert members(20, seed=1)[:8] == members(8, seed=1)


def test_a_fleet_has_all_variants_versions_and_blocks_and_no_name_twice() -> None:
    fleet = members(40, seed=0)
    counts = Counter(member.variant for member in fleet)
    assert set(counts) == set(VARIANTS)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert {member.version for member in fleet} == set(VERSIONS[:-1])
    assert {block for member in fleet for block in member.domain.blocks} == set(BLOCKS)
    assert len({member.name for member in fleet}) == len(fleet)
    assert all(member.version == OLDEST for member in fleet[: len(VARIANTS)])


def test_the_fleet_of_ci_is_of_the_oldest_version_and_has_every_answer_that_decides_about_paths() -> None:
    fleet = members(len(HARDEST), 0, HARDEST)
    assert [(member.variant, member.version) for member in fleet] == [(name, OLDEST) for name in HARDEST]
    deciding = [question for question in QUESTIONS if any(question in entry for entry in CONFIG["_exclude"])]
    assert "read_replica" in deciding
    for question in set(deciding).difference(WITHOUT_PYTHON):
        assert {(DEFAULTS | VARIANTS[name])[question] for name in HARDEST} == set(QUESTIONS[question])


def test_the_lines_that_a_team_added_are_found_whatever_their_indent() -> None:
    before = {"a.toml": "one\ntwo\n", "b.py": "same\n"}
    after = {"a.toml": "one\n  own\ntwo\n", "b.py": "same\n", "c.py": "new\n\n"}
    assert added_lines(before, after) == {"own", "new"}


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        (GREEN, []),
        (replace(GREEN, error="RuntimeError: no"), ["orders-1: the update failed: RuntimeError: no"]),
        (replace(GREEN, lost=frozenset({"b", "a"})), ["orders-1: lost without a word: a, b"]),
        (replace(GREEN, conflicts=frozenset({"app/x.py"})), ["orders-1: conflicts in app/x.py"]),
        (replace(GREEN, suite="red", output="1\n2"), ["orders-1: its suite is red:\n    1\n    2"]),
    ],
)
def test_what_must_not_be_is_named_with_its_service(result: Result, expected: list[str]) -> None:
    assert problems([GREEN, result]) == expected


def test_the_table_has_a_line_for_each_service() -> None:
    failed = replace(GREEN, member=replace(MEMBER, name="tickets-2", variant="minimum"), error="no", suite="-")
    assert report([GREEN, failed]).splitlines() == [
        "service     variant    from  updated  conflicts  deletions  lost  suite  seconds",
        "orders-1   defaults  v0.1.0      yes          0          1     0  green       61",
        "tickets-2   minimum  v0.1.0       no          0          1     0      -       61",
    ]


def test_a_suite_begins_with_an_environment_and_the_short_one_has_the_domains_and_the_guards() -> None:
    assert commands(Suite.NONE, ["orders"]) == []
    assert commands(Suite.FULL, ["orders"]) == [["sync", "--quiet"], ["run", "nox"]]
    sync, checks, tests = commands(Suite.SHORT, ["users", "orders"])
    assert sync == ["sync", "--quiet"]
    assert checks == ["run", "nox", "--session", "lint", "types"]
    assert tests == ["run", "pytest", "tests/orders", "tests/users", *GUARDS]


def test_the_guards_are_there() -> None:
    for guard in GUARDS:
        assert list((ROOT / "template" / guard).glob("test_*.py"))


def test_what_each_team_writes_is_formatted_and_clean(template: Path, tmp_path: Path) -> None:
    # The length of a name decides where lines break.
    plain = render(template, tmp_path / "plain", {"example": False})
    for noun in NOUNS:
        service = Path(shutil.copytree(plain, tmp_path / noun))
        grow(service, Domain(f"{noun}s", noun, tuple(BLOCKS)))
        ruff(service, "format", "--check")
        ruff(service, "check")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["0"], "at least one service"),
        (["2", "--jobs=0"], "at least one service, and one at once"),
        (["2", "--suites=some"], "invalid"),
        (["1", "--keep=tests"], "tests exists: name a new directory"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert reason in capsys.readouterr().err
