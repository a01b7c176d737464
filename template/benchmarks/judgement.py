"""Whether a version is slower than another, from measurements in pairs. Nothing here measures."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb, inf
from statistics import median

# Probability that an interval does not have the true ratio.
MISS = 0.01


@dataclass(frozen=True)
class Interval:
    """A ratio of costs, new to old, and the bounds between which it lies."""

    low: float
    middle: float
    high: float

    def verdict(self, threshold: float) -> str:
        """Return `slower` or `faster` only if the whole interval is beyond the threshold."""
        if self.low > 1 + threshold:
            return "slower"
        if self.high < 1 / (1 + threshold):
            return "faster"
        return "same" if self.high <= 1 + threshold else "unclear"

    def is_clear(self, threshold: float) -> bool:
        """Return whether further rounds are needless."""
        is_narrow = self.high <= self.low * (1 + 2 * threshold)
        return is_narrow and self.verdict(threshold) != "unclear"


def interval(ratios: Sequence[float]) -> Interval:
    """Return the median of the ratios of all rounds, and the interval that has the true median.

    The bounds are ratios themselves, by their rank: this assumes nothing about how the noise is
    distributed, so a few disturbed rounds do not matter. Fewer than eight rounds have no bounds.
    """
    ordered = sorted(ratios)
    number, cut, probability = len(ordered), 0, 0.0
    # The number of ratios below the true median is that of heads among as many coins.
    while 2 * (probability + comb(number, cut) / 2**number) <= MISS:
        probability += comb(number, cut) / 2**number
        cut += 1
    if cut == 0:
        return Interval(0.0, median(ordered) if ordered else 1.0, inf)
    return Interval(ordered[cut - 1], median(ordered), ordered[-cut])
