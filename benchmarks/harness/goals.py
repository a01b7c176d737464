"""What the rendered service is to reach, and whether a run shows it (pure)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Literal

from benchmarks.harness.results import Measurement, Results, Section
from benchmarks.harness.scenarios import ENDPOINTS, SCENARIOS
from benchmarks.harness.summary import (
    Spread,
    cores,
    counterpart,
    cpu_ratio,
    errors_text,
    latency,
    paired,
    ratio,
    spread,
    summary,
    tail,
)

SUBJECT = "rendered"

Figure = Literal["requests", "p95", "p99", "cpu", "tail"]
NAMES: dict[Figure, str] = {"requests": "requests/s", "p95": "p95", "p99": "p99", "cpu": "CPU time of a request"}


@dataclass(frozen=True)
class Goal:
    """What a service is to reach; every scenario of the section counts when none is named.

    All figures are multiples of those of `against`, but for "tail": p99 / p50 with four times more clients than pool
    connections. `of`: whether each scenario is judged by itself, or the lowest of all, or their median.
    """

    section: Section
    scenario: str | None
    figure: Figure
    bound: float
    against: str = ""
    workers: int | None = None
    service: str = SUBJECT
    of: Literal["each", "lowest", "median"] = "each"

    @property
    def at_least(self) -> bool:
        return self.figure == "requests"

    @property
    def name(self) -> str:
        if self.figure == "tail":
            text = "p99 / p50, 4 times more clients than connections"
        else:
            of = "" if self.service == SUBJECT else f" of {self.service}"
            text = f"{NAMES[self.figure]}{of} against {self.against}"
        return text + (f", {self.workers} worker" if self.workers else "")


GOALS = (
    Goal("endpoints", None, "requests", 1.0, "plain", of="lowest"),
    Goal("endpoints", None, "requests", 1.15, "plain", of="median"),
    Goal("mixes", "read-mostly", "requests", 1.2, "plain"),
    Goal("mixes", "read-mostly", "requests", 25, "naive"),
    Goal("mixes", "read-mostly-cached", "requests", 5, "plain"),
    Goal("mixes", "read-mostly-cached", "requests", 100, "naive"),
    Goal("mixes", "read-mostly-cached", "requests", 0.70, "raw"),
    Goal("mixes", "write-heavy", "requests", 1.1, "plain"),
    *(Goal("crud", "crud", "requests", 1.0, "plain", service=way) for way in ("valkey", "memory", "no-cache")),
    *(Goal("crud", "crud", "p99", 0.6, "plain", service=way) for way in ("valkey", "memory", "no-cache")),
    Goal("caches", "user", "cpu", 1.15, "uncached", service="miss"),
    Goal("caches", "user-popular", "requests", 0.75, "raw", service="local"),
    # Endpoints are measured with as many clients as this goal speaks of; a probe takes no connection.
    *(Goal("endpoints", name, "tail", 2, workers=1) for name in ENDPOINTS if name != "health"),
    Goal("mixes", "read-mostly", "p95", 1 / 10, "naive"),
    Goal("mixes", "read-mostly-cached", "p95", 1 / 30, "naive"),
    Goal("endpoints", "user", "requests", 0.60, "raw", workers=1),
    Goal("endpoints", "posts", "requests", 0.75, "raw", workers=1),
    Goal("endpoints", "users", "requests", 0.60, "raw", workers=1),
    Goal("endpoints", "write", "requests", 0.55, "raw", workers=1),
)


@dataclass(frozen=True)
class Verdict:
    goal: Goal
    scenario: str | None
    value: Spread | None  # None: not measured
    remarks: tuple[str, ...] = ()

    @property
    def subject(self) -> str:
        """The scenario, or how those of the section are taken together."""
        together = {"each": "any", "lowest": "the slowest endpoint", "median": "the median of endpoints"}
        return together[self.goal.of] if self.goal.of != "each" else self.scenario or "any"

    @property
    def is_reached(self) -> bool:
        """False also for a figure that was not measured."""
        if self.value is None:
            return False
        value = self.value.median
        return value >= self.goal.bound if self.goal.at_least else value <= self.goal.bound

    @property
    def text(self) -> str:
        if self.value is None:
            return "not measured"
        return "reached" if self.is_reached else "**missed**"


def verdicts(goal: Goal, results: Results) -> list[Verdict]:
    """One for each measurement that the goal speaks of, or a single one: of all together, or without a value."""
    found = []
    for each in results.measurements:
        if (
            (each.service, each.section) == (goal.service, goal.section)
            and goal.scenario in (None, each.scenario)
            and goal.workers in (None, each.workers)
            and (SCENARIOS[each.scenario].cached or not each.cached or goal.section == "caches")
            and (goal.figure != "tail" or each.clients == results.settings.get("pool_clients"))
        ):
            verdict = _verdict(goal, each, results)
            if verdict.value:
                found.append(verdict)
    if not found:
        return [Verdict(goal, goal.scenario, None)]
    return found if goal.of == "each" else [_together(goal, found)]


def _together(goal: Goal, found: Sequence[Verdict]) -> Verdict:
    values = {each: each.value.median for each in found if each.value}
    lowest = min(values, key=values.__getitem__)
    if goal.of == "lowest":
        return replace(lowest, remarks=(str(lowest.scenario), *lowest.remarks))
    # The range is that of the endpoints, and not of rounds.
    value = Spread(median(values.values()), min(values.values()), max(values.values()))
    return Verdict(goal, None, value, (f"{len(values)} endpoints, from the slowest to the fastest",))


def _verdict(goal: Goal, measurement: Measurement, results: Results) -> Verdict:
    if goal.figure == "tail":
        value = spread([tail(each) for each in measurement.rounds])
        return Verdict(goal, measurement.scenario, value, tuple(_doubts(results, measurement)))
    baseline = counterpart(results, measurement, goal.against)
    if baseline is None or goal.workers not in (None, baseline.workers):
        return Verdict(goal, measurement.scenario, None)
    match goal.figure:
        case "requests":
            value = ratio(measurement, baseline)
        case "cpu":
            value = cpu_ratio(measurement, baseline)
        case _:
            value = paired(measurement, baseline, latency({"p95": 0.95, "p99": 0.99}[goal.figure]))
    remarks = [*_doubts(results, measurement), *_doubts(results, baseline)]
    if baseline.workers != measurement.workers:
        remarks.append(f"workers: {measurement.workers} against {baseline.workers}")
    return Verdict(goal, measurement.scenario, value, tuple(remarks))


def _doubts(results: Results, measurement: Measurement) -> Iterable[str]:
    """What keeps a figure from being the service's own."""
    total = summary(measurement, cores(results))
    if total.errors:
        yield f"{measurement.service}: errors {errors_text(total.errors)}"
    if total.limited_by:
        yield f"{measurement.service}: {total.limited_by} was the limit"
    if total.disturbed_rounds:
        yield f"{measurement.service}: {total.disturbed_rounds} of {len(measurement.rounds)} rounds disturbed"
