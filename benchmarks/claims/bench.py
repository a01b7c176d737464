"""Interleaved rounds of two sides, and what they found: the part of a measurement that all claims share."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import median

from psutil import Process

from benchmarks.claims.lab import Lab, Server
from benchmarks.claims.results import Found
from benchmarks.claims.table import Claim
from benchmarks.claims.verdicts import interval, is_clear
from benchmarks.harness import drivers, machine
from benchmarks.harness.answers import ask
from benchmarks.harness.drivers import Load
from benchmarks.harness.results import Sample
from benchmarks.harness.scenarios import Request
from benchmarks.harness.services import answers

CLIENTS = 20
SETTLE_TIMEOUT_S = 20.0
# A client that uses more of a core limits the rate, and the ratio is larger in truth.
CLIENT_LIMIT = 0.9


class RoundFailed(RuntimeError):
    """Requests of a round failed, so its figures say nothing."""


@dataclass(frozen=True)
class Plan:
    """The number of pairs of rounds, and of long rounds; the seconds of a round; the workers of a memory figure."""

    pairs: int = 9
    few_pairs: int = 6
    seconds: float = 0.4
    processes: int = 6
    # Warm-ups, and twice as many pairs if a limit is inside the interval.
    is_thorough: bool = True

    def workers(self, number: int) -> int:
        """Return the number of workers to start instead of this one."""
        return number if self.is_thorough else min(2, number)


# Shows that everything runs; its figures say nothing.
QUICK = Plan(pairs=1, few_pairs=1, seconds=0.1, processes=2, is_thorough=False)
# A round without an answer is repeated, each time four times as long.
ATTEMPTS = 4


@dataclass(frozen=True)
class Side:
    """One of two things to compare: requests to a server, in a closed loop or at a `rate`.

    `beside` is another load meanwhile, whose requests are not counted.
    """

    server: Server
    requests: Sequence[Request]
    clients: int = CLIENTS
    rate: float | None = None
    # As often as long as a round of the plan.
    times: float = 1.0
    beside: "Side | None" = None
    may_fail: bool = False

    def load(self, seconds: float) -> Load:
        requests = [request.encoded() for request in self.requests]
        return Load(self.server.port, requests, self.clients, seconds, self.rate, cores=self.server.clients_cores)


@dataclass(frozen=True)
class Round:
    """What the client saw; the CPU time of the server meanwhile, and the cores that other programs used."""

    sample: Sample
    cpu_s: float
    foreign_cores: float


@dataclass(frozen=True)
class Metric:
    """A figure of a round; a `smaller` one is better, and its ratio is the other way round."""

    unit: str
    of: Callable[[Round], float]
    smaller: bool = False

    def ratio(self, before: float, after: float) -> float:
        return before / after if self.smaller else after / before


def latency(quantile: float) -> Metric:
    return Metric("ms", lambda found: found.sample.latency_ms(quantile) or 0.0, smaller=True)


RATE = Metric("requests/s", lambda found: found.sample.answered / found.sample.seconds)
# For servers that are faster than the client; the system counts in steps of 10 ms.
CPU_RATE = Metric("requests per CPU second", lambda found: found.sample.answered / max(found.cpu_s, 0.01))
P50, P95 = latency(0.5), latency(0.95)


@dataclass
class Bench:
    """Measures one claim; `found` has its figures."""

    lab: Lab
    claim: Claim
    plan: Plan
    say: Callable[[str], None]
    found: dict[str, Found] = field(default_factory=dict)

    def compare(self, before: Side, after: Side, metrics: Mapping[str, Metric], *, few: bool = False) -> None:
        """Measure both sides in turns, A B B A; `metrics` has a metric for the key of each figure.

        Raises:
            RoundFailed: when a request of a side that may not fail has failed.
        """
        for side in (before, after):
            # The first request of a service imports and connects.
            if (answer := ask(side.server.port, side.requests[0])).status >= 400:
                raise RoundFailed(f"{self.claim.name}: {side.requests[0].path}: {answer.status} {answer.body}")
            if self.plan.is_thorough:
                self._round(side)
        rules = {figure.key: figure.rule for figure in self.claim.figures}
        pairs = self.plan.few_pairs if few else self.plan.pairs
        rounds = self._pairs(before, after, pairs)
        found = {key: _found(metric, rounds) for key, metric in metrics.items()}
        if self.plan.is_thorough and not all(
            is_clear(rules[key], interval(each.values)) for key, each in found.items()
        ):
            rounds += self._pairs(before, after, pairs)
            found = {key: _found(metric, rounds) for key, metric in metrics.items()}
        for key, each in found.items():
            self.record(key, each)

    def record(self, key: str, found: Found) -> None:
        self.found[key] = found
        title = next(figure.title for figure in self.claim.figures if figure.key == key)
        self.say(f"  {title}: {found.text()}")

    def once(self, side: Side, seconds: float) -> None:
        """Drive one side without a comparison."""
        self._round(side, seconds)

    def _pairs(self, before: Side, after: Side, number: int) -> list[tuple[Round, Round]]:
        return [self._pair(before, after, reverse=index % 2 == 1) for index in range(number)]

    def _pair(self, before: Side, after: Side, *, reverse: bool) -> tuple[Round, Round]:
        if reverse:
            second = self._round(after)
            return self._round(before), second
        return self._round(before), self._round(after)

    def _round(self, side: Side, seconds: float = 0.0) -> Round:
        """Drive a side until there is an answer; fail if a request fails that may not."""
        seconds = seconds or self.plan.seconds * side.times
        for attempt in range(ATTEMPTS):
            found = _drive(side, self.lab.processes, seconds * 4**attempt)
            if not side.may_fail:
                side.server.running.check()
                if found.sample.errors:
                    break
            if found.sample.answered:
                return found
        raise RoundFailed(
            f"{self.claim.name}: {side.requests[0].path}: {found.sample.answered} answers, {found.sample.errors}"
        )


def _drive(side: Side, servers: Sequence[Process], seconds: float) -> Round:
    service = [side.server.running.process]
    began, busy, own = time.monotonic(), machine.busy_s(), machine.own_cpu_s()
    before, before_servers = machine.cpu_s(service), machine.cpu_s(servers)
    with ThreadPoolExecutor(1) as pool:
        # A little longer than the round, which begins at the same time.
        other = pool.submit(drivers.own, side.beside.load(seconds + 0.2)) if side.beside else None
        sample = drivers.own(side.load(seconds))
        if other:
            other.result()
    used, used_servers = machine.cpu_s(service) - before, machine.cpu_s(servers) - before_servers
    foreign = machine.busy_s() - busy - (machine.own_cpu_s() - own) - used - used_servers
    elapsed = time.monotonic() - began
    _settle(side.server.port)
    return Round(sample, used, max(0.0, foreign / elapsed))


def _found(metric: Metric, rounds: Sequence[tuple[Round, Round]]) -> Found:
    values = [(metric.of(before), metric.of(after)) for before, after in rounds]
    both = [each.sample for pair in rounds for each in pair]
    return Found(
        values=[round(metric.ratio(*pair), 4) for pair in values],
        before=round(median(before for before, _ in values), 4),
        after=round(median(after for _, after in values), 4),
        unit=metric.unit,
        errors=sum(sum(sample.errors.values()) for sample in both),
        foreign_cores=round(median(each.foreign_cores for pair in rounds for each in pair), 2),
        client_limited=metric is RATE and median(after.sample.client_cores for _, after in rounds) > CLIENT_LIMIT,
    )


def _settle(port: int) -> None:
    """Wait until the server has worked off the requests that the client left behind."""
    deadline = time.monotonic() + SETTLE_TIMEOUT_S
    # A loop that is blocked answers after the requests before this one.
    while answers(port) != 200:
        if time.monotonic() > deadline:
            raise RoundFailed(f"the server on port {port} did not answer in {SETTLE_TIMEOUT_S:g} s")
        time.sleep(0.02)
