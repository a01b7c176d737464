"""The page of claims shows its data, its verdicts follow the rule, and the rendered files that it names exist."""

import re

import pytest

from benchmarks.claims import page
from benchmarks.claims.results import Found, Row, load, short
from benchmarks.claims.table import CLAIMS, Claim
from benchmarks.claims.verdicts import AtLeast, Between, Interval, Rule, Verdict, interval, is_clear, together
from tests.rendering import ROOT

HOLDS, IN_PART, NO_LONGER = Verdict


def test_the_page_shows_the_data() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.page(load()), "run `nox -s docs`"


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_data_has_the_figures_of_the_table(claim: Claim) -> None:
    if row := load().get(claim.name):
        assert set(row.figures) == {figure.key for figure in claim.figures}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_the_files_of_a_rendered_service_exist(claim: Claim) -> None:
    paths = [text for text in re.findall("`([^`]+)`", claim.rendered) if re.fullmatch(r"\w+/[\w./]+", text)]
    missing = [
        path
        for path in paths
        if not any((ROOT / "template" / candidate).exists() for candidate in (path, f"{path}.jinja"))
    ]
    assert missing == []


@pytest.mark.parametrize(
    ("rule", "low", "high", "verdict"),
    [
        (AtLeast(10), 10, 30, HOLDS),
        (AtLeast(10), 9.9, 30, IN_PART),
        (AtLeast(10), 6, 9, IN_PART),
        # Half of the promised gain, of which nothing is left below 5.5x.
        (AtLeast(10), 5, 6, IN_PART),
        (AtLeast(10), 5, 5.4, NO_LONGER),
        (AtLeast(1.2), 0.6, 1.05, NO_LONGER),
        (AtLeast(1.2), 1.05, 1.15, IN_PART),
        # A claim of no loss has one limit.
        (AtLeast(0.95), 0.95, 1, HOLDS),
        (AtLeast(0.95), 0.9, 1, IN_PART),
        (AtLeast(0.95), 0.8, 0.94, NO_LONGER),
        (Between(40, 100, "MB"), 40, 100, HOLDS),
        (Between(40, 100, "MB"), 39, 41, IN_PART),
        (Between(40, 100, "MB"), 30, 39, NO_LONGER),
        (Between(40, 100, "MB"), 101, 120, NO_LONGER),
    ],
)
def test_a_verdict_comes_from_the_whole_interval(rule: Rule, low: float, high: float, verdict: Verdict) -> None:
    assert rule.verdict(Interval((low + high) / 2, low, high)) is verdict


@pytest.mark.parametrize(
    ("low", "high", "clear"),
    [(11, 12, True), (9, 11, False), (6, 9, True), (5, 6, False), (3, 4, True), (4, 12, False)],
)
def test_more_rounds_are_needed_if_a_limit_is_inside(low: float, high: float, clear: bool) -> None:
    assert is_clear(AtLeast(10), Interval((low + high) / 2, low, high)) is clear


@pytest.mark.parametrize(("count", "left_out"), [(1, 0), (2, 0), (5, 0), (6, 0), (8, 0), (9, 1), (12, 2), (20, 5)])
def test_an_interval_leaves_out_as_many_values_as_its_coverage_allows(count: int, left_out: int) -> None:
    found = interval([float(value) for value in reversed(range(count))])
    assert (found.low, found.high) == (left_out, count - 1 - left_out)
    assert found.median == (count - 1) / 2


def test_a_claim_is_in_part_unless_its_figures_agree() -> None:
    assert together([HOLDS, HOLDS]) is HOLDS
    assert together([NO_LONGER, NO_LONGER]) is NO_LONGER
    assert together([HOLDS, NO_LONGER]) is IN_PART
    assert together([IN_PART]) is IN_PART


def test_a_row_shows_its_figures_and_marks_those_close_to_a_limit() -> None:
    machine = {"cpu": "Some CPU", "cores": 2, "system": "Linux 6"}

    def shown(*values: float, errors: int = 0, foreign_cores: float = 0) -> str:
        found = Found(list(values), "requests/s", 300, 1_500, errors, foreign_cores=foreign_cores)
        return page.page({"pooling": Row("2026-01-31", machine, {"asyncpg": "1"}, {"pool": found})})

    assert "| **holds** |" in shown(7, 8, 9)
    assert "**8.00x (7.00 to 9.00), 300 to 1,500 requests/s**; >= 5x: holds |" in shown(7, 8, 9)
    assert ">= 5x: holds, close |" in shown(5.1, 8, 9)
    assert ", 3 errors**" in shown(7, 8, errors=3)
    assert "| **holds**, disturbed |" in shown(7, foreign_cores=0.5)
    assert "disturbed: other programs used 0.5 cores**" in shown(7, foreign_cores=0.5)
    assert "2026-01-31, Some CPU, 2 cores, Linux 6 (asyncpg 1): pooling" in shown(7)
    assert shown(7).count("| not measured |") == len(CLAIMS) - 1


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (9.99, "9.99"), (9.999, "10.0"), (99.96, "100")])
def test_a_figure_has_three_digits(value: float, text: str) -> None:
    assert short(value) == text
