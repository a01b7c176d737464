"""Rounds of requests to one version, or to two in turn."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import median

from benchmarks import client
from benchmarks.judgement import Interval, interval
from benchmarks.service import Service, Unusable, cpu_s, family

# Time that each version answers in a round. The bursts of a round are much shorter, so that the
# noise of the machine hits both versions.
ROUND_S = 0.2
# A cost below this is not compared: half of it is noise.
LEAST_US = 20.0
ROUNDS = 5
# Fewer have no interval.
LEAST_ROUNDS = 8


@dataclass
class Costs:
    """What one endpoint of one version costs, a value for each round."""

    service_us: list[float] = field(default_factory=list)
    servers_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


@dataclass
class Endpoint:
    """An endpoint: the payload for each version, what it costs there, and the turns of a round."""

    name: str
    payloads: Sequence[bytes]
    costs: Sequence[Costs]
    turns: int = 2

    def compared(self, kind: str) -> Interval | None:
        """Return the ratio of the CPU time of the `service` or its `servers`, new to old."""
        old, new = (getattr(each, f"{kind}_us") for each in self.costs)
        if max(median(old), median(new)) < LEAST_US:
            return None
        return interval([max(b, 1) / max(a, 1) for a, b in zip(old, new, strict=True)])

    def is_clear(self, threshold: float) -> bool:
        """Return whether further rounds are needless."""
        found = [self.compared("service"), self.compared("servers")]
        return all(each.is_clear(threshold) for each in found if each)


class Meter:
    """Sends requests from a process of its own, and reads the clocks of the services."""

    def __init__(self, services: Sequence[Service], clients: int) -> None:
        self.services = services
        self.clients = clients
        # Not a copy of this process, which has servers.
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def warm_up(self, endpoints: Sequence[Endpoint]) -> None:
        """Send requests to each endpoint, and set the turns of its rounds, which are even."""
        for endpoint in endpoints:
            self._send(endpoint)
            slowest_s = max(each.seconds for each in self._send(endpoint)) / endpoint.turns
            endpoint.turns = max(2, 2 * round(ROUND_S / slowest_s / 2))

    def round(self, endpoints: Sequence[Endpoint]) -> None:
        """Measure each endpoint once.

        Endpoints take turns, so that a disturbance of the machine meets one round of several.
        """
        families = [(family(each.process), family(*each.servers)) for each in self.services]
        for endpoint in endpoints:
            before = [tuple(map(cpu_s, each)) for each in families]
            found = self._send(endpoint)
            after = [tuple(map(cpu_s, each)) for each in families]
            for costs, answers, start, end in zip(
                endpoint.costs, found, before, after, strict=True
            ):
                count = len(answers.latencies_s)
                costs.service_us.append(1e6 * (end[0] - start[0]) / count)
                costs.servers_us.append(1e6 * (end[1] - start[1]) / count)
                costs.per_second.append(count / answers.seconds)
                costs.latencies_ms += [1000 * each for each in answers.latencies_s]

    def _send(self, endpoint: Endpoint) -> list[client.Answers]:
        ports = [each.port for each in self.services]
        targets = list(zip(ports, endpoint.payloads, strict=True))
        found = self.pool.submit(client.send, targets, endpoint.turns, self.clients).result()
        if wrong := {status for each in found for status in each.statuses if status >= 400}:
            raise Unusable(f"{endpoint.name} was answered with {wrong} under load.")
        return found


def measure(meter: Meter, endpoints: Sequence[Endpoint]) -> None:
    """Measure one version."""
    meter.warm_up(endpoints)
    for _ in range(ROUNDS):
        meter.round(endpoints)


def compare(meter: Meter, endpoints: Sequence[Endpoint], threshold: float, most: int) -> None:
    """Measure two versions in turn, each endpoint until its result is clear."""
    meter.warm_up(endpoints)
    unclear = list(endpoints)
    for number in range(1, max(most, LEAST_ROUNDS) + 1):
        meter.round(unclear)
        unclear = [each for each in unclear if not each.is_clear(threshold)]
        if not unclear:
            break
        if number % 10 == 0:
            print(f"round {number}: {len(unclear)} endpoints are not clear yet", flush=True)
