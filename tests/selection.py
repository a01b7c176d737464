"""Which cases of a test CI runs, and which only `nox -s thorough` does."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def thorough(cases: Iterable[Any], *, but: Collection[Any]) -> list[Any]:
    """The cases of a parametrized test, with the marker `thorough` on all `but` those that CI runs as well.

    Raises:
        ValueError: for a case in `but` that there is not.
    """
    cases = list(cases)
    if missing := [case for case in but if case not in cases]:
        raise ValueError(f"no such cases: {missing}")
    return [case if case in but else marked(case) for case in cases]


def marked(case: Any) -> Any:
    return pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=pytest.mark.thorough)
