"""Whether a version is slower than another: the decision, without measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from statistics import mean, stdev

# The numbers of starts after which the interval is looked at, and the quantile of Student's t for
# each. A look misses the true ratio once in 60 times, so the three looks of a comparison that goes
# on until its result is clear miss it at most three times in 60 (Bonferroni): 95 % confidence.
QUANTILES = {4: 4.857, 8: 3.128, 16: 2.694}


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
        return "not slower" if self.high <= 1 + threshold else "unclear"


def interval(ratios: Sequence[float]) -> Interval:
    """Return the geometric mean of the ratios of all starts, and the interval of the true ratio.

    The starts count, not their rounds: two processes with the same code differ in the layout of
    their memory and in their hashes, so rounds of one start are all too high or all too low. Other
    numbers of starts than those of `QUANTILES` have no bounds.
    """
    logs = [log(ratio) for ratio in ratios]
    middle = mean(logs) if logs else 0.0
    if len(logs) not in QUANTILES:
        return Interval(0.0, exp(middle), inf)
    half = QUANTILES[len(logs)] * stdev(logs) / sqrt(len(logs))
    return Interval(exp(middle - half), exp(middle), exp(middle + half))
