"""Rounds of requests to one version, or to two in turn."""

from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import median

from benchmarks import client
from benchmarks.judgement import Interval, interval
from benchmarks.service import Service, Unusable

# Time that each version answers in a round. The bursts of a round are much shorter, so that the
# noise of the machine hits both versions.
ROUND_S = 0.2
# A cost below this is not compared: half of it is noise.
LEAST_US = 20.0
KINDS = ("service", "servers")


@dataclass
class Costs:
    """What one endpoint of one version costs: a value for each round, and each latency."""

    cpu_us: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    per_second: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


@dataclass
class Endpoint:
    """An endpoint: the payload for each version, and what it costs there."""

    name: str
    payloads: Sequence[bytes]
    costs: Sequence[Costs]
    # Of each start, new to old.
    ratios: dict[str, list[float]] = field(default_factory=lambda: {kind: [] for kind in KINDS})

    def end_start(self, rounds: int) -> None:
        """Set the ratio of a start: the median of its rounds."""
        for kind, ratios in self.ratios.items():
            old, new = (each.cpu_us[kind][-rounds:] for each in self.costs)
            ratios.append(median(max(b, 1) / max(a, 1) for a, b in zip(old, new, strict=True)))

    def compared(self, kind: str) -> Interval | None:
        """Return the ratio of the CPU time of the `service` or its `servers`, new to old.

        Returns None for a small cost.
        """
        is_small = max(median(each.cpu_us[kind]) for each in self.costs) < LEAST_US
        return None if is_small else interval(self.ratios[kind])

    def is_clear(self, threshold: float) -> bool:
        """Return whether further starts are needless."""
        found = [self.compared(kind) for kind in KINDS]
        return all(each.verdict(threshold) != "unclear" for each in found if each)


def measure(
    services: Sequence[Service], endpoints: Sequence[Endpoint], clients: int, rounds: int
) -> None:
    """Measure each endpoint in rounds, on services that have just started.

    Endpoints take turns, so that a disturbance of the machine meets one round of several.
    """
    # Not a copy of this process, which has servers.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        turns = {}
        for each in endpoints:
            _send(pool, services, each, 2, clients)
            warm_s = max(found.seconds for found in _send(pool, services, each, 2, clients)) / 2
            turns[each.name] = max(2, 2 * round(ROUND_S / warm_s / 2))
        for _ in range(rounds):
            for each in endpoints:
                before = [service.cpu_s() for service in services]
                answers = _send(pool, services, each, turns[each.name], clients)
                after = [service.cpu_s() for service in services]
                for costs, found, *used in zip(each.costs, answers, before, after, strict=True):
                    count = len(found.latencies_s)
                    for kind, start, end in zip(KINDS, *used, strict=True):
                        costs.cpu_us[kind].append(1e6 * (end - start) / count)
                    costs.per_second.append(count / found.seconds)
                    costs.latencies_ms += [1000 * latency for latency in found.latencies_s]
    if len(services) == 2:
        for each in endpoints:
            each.end_start(rounds)


def _send(
    pool: Executor, services: Sequence[Service], endpoint: Endpoint, turns: int, clients: int
) -> list[client.Answers]:
    targets = list(zip((each.port for each in services), endpoint.payloads, strict=True))
    found = pool.submit(client.send, targets, turns, clients).result()
    if wrong := {status for each in found for status in each.statuses if status >= 400}:
        raise Unusable(f"{endpoint.name} was answered with {wrong} under load.")
    return found
