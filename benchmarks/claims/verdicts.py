"""Intervals and verdicts (pure): a verdict comes from an interval by a rule, and never from a median."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import comb
from statistics import median

# The interval contains the true median in at least this share of all runs.
COVERAGE = 0.95


class Verdict(StrEnum):
    HOLDS = "holds"
    IN_PART = "in part"
    NO_LONGER = "no longer"


@dataclass(frozen=True)
class Interval:
    """A median and the order statistics around it that cover the true median."""

    median: float
    low: float
    high: float

    def touches(self, limit: float) -> bool:
        return self.low < limit <= self.high


def interval(values: Sequence[float]) -> Interval:
    """Return the narrowest symmetric interval of order statistics that has COVERAGE; lowest to highest below 6 values.

    The number of values below the median has a binomial distribution, whatever the distribution of the values is.
    """
    ordered, count = sorted(values), len(values)
    left_out, outside = 0, 0.0
    while left_out < (count - 1) // 2:
        outside += 2 * comb(count, left_out) / 2**count
        following = outside + 2 * comb(count, left_out + 1) / 2**count
        if 1 - following < COVERAGE:
            break
        left_out += 1
    return Interval(median(ordered), ordered[left_out], ordered[count - 1 - left_out])


@dataclass(frozen=True)
class AtLeast:
    """The claim promises a ratio of `limit` or more. Half of the promised gain is a part of it."""

    limit: float

    @property
    def part(self) -> float:
        """Return the limit below which nothing of the claim is left; a claim of no loss has no such part."""
        return min(self.limit, 1 + (self.limit - 1) / 2)

    @property
    def limits(self) -> tuple[float, ...]:
        return (self.limit, self.part)

    def verdict(self, found: Interval) -> Verdict:
        """Judge the whole interval: one that contains a limit is on neither side of it."""
        if found.low >= self.limit:
            return Verdict.HOLDS
        return Verdict.NO_LONGER if found.high < self.part else Verdict.IN_PART

    def __str__(self) -> str:
        return f">= {self.limit:g}x"


@dataclass(frozen=True)
class Between:
    """The claim promises a figure from `low` to `high`, in `unit`."""

    low: float
    high: float
    unit: str

    @property
    def limits(self) -> tuple[float, ...]:
        return (self.low, self.high)

    def verdict(self, found: Interval) -> Verdict:
        if self.low <= found.low and found.high <= self.high:
            return Verdict.HOLDS
        return Verdict.NO_LONGER if found.high < self.low or found.low > self.high else Verdict.IN_PART

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g} {self.unit}"


Rule = AtLeast | Between


def is_clear(rule: Rule, found: Interval) -> bool:
    """Return whether no limit of the rule is inside the interval, so that more values would not change the verdict."""
    return not any(found.touches(limit) for limit in rule.limits)


def together(verdicts: Sequence[Verdict]) -> Verdict:
    """Return the verdict of a claim with several figures: in part, unless all of them agree."""
    return verdicts[0] if len(set(verdicts)) == 1 else Verdict.IN_PART
