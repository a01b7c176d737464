"""The table of tests/internals/ is complete: no file is missing in it, and every combination runs in one variant."""

import re
from pathlib import Path

import pytest

from tests.internals_table import HELPERS, SOURCE, TESTS, Needs, answers_of, assigned, lay_over, sensible, variant_with
from tests.variants import QUESTIONS, VARIANTS


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
