"""What the model says of a document: the two points that it is given, and the error of the others."""

import pytest

from benchmarks.growth.predictions import Check, error_text, is_quiet


def check(measured: float, predicted: float, *, calibrated: bool = False, foreign_cores: float = 0.0) -> Check:
    return Check(1, 8, measured, predicted, calibrated, foreign_cores)


def test_the_error_is_of_the_points_that_the_model_was_not_given() -> None:
    found = [check(100, 90), check(100, 105), check(100, 130), check(100, 900, calibrated=True)]
    assert error_text(found) == "10% (median; at most 30%)"
    assert [each.error for each in found[:2]] == pytest.approx([-0.1, 0.05])


def test_without_a_point_the_error_is_unknown() -> None:
    assert error_text([check(100, 900, calibrated=True)]).startswith("unknown")


@pytest.mark.parametrize(("foreign_cores", "quiet"), [(0.0, True), (0.1, True), (0.11, False)])
def test_a_point_is_quiet_without_other_processes(foreign_cores: float, quiet: bool) -> None:
    assert is_quiet(check(1, 1, foreign_cores=foreign_cores)) is quiet
