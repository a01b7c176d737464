"""Rounds of requests to one version, or to two in turn."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from statistics import median

from benchmarks import client
from benchmarks.judgement import Interval, interval, ratio
from benchmarks.service import Service, Unusable, cpu_s, family

# Long enough for the clocks, and short enough for the noise of the machine to hit both versions.
SLICE_S = 0.15
# A cost below this is not compared: half of it is noise.
LEAST_US = 20.0
WARM_UP = 300
ROUNDS = 5


@dataclass
class Costs:
    """The costs of one endpoint of one version, a value for each slice."""

    service_us: list[float] = field(default_factory=list)
    servers_us: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)


@dataclass
class Endpoint:
    """An endpoint: the payload for each version, and what its slices cost."""

    name: str
    payloads: Sequence[bytes]
    costs: Sequence[Costs]
    count: int = 0

    def compared(self, kind: str) -> Interval:
        """Return the ratio of the CPU time of the service or its servers, new to old."""
        old, new = (getattr(each, f"{kind}_us") for each in self.costs)
        if not old or max(median(old), median(new)) < LEAST_US:
            return Interval(1.0, 1.0, 1.0)
        rounds = range(0, len(old), 2)
        floor = LEAST_US / 4
        pairs = (
            ([max(floor, each) for each in costs[at : at + 2]] for costs in (old, new))
            for at in rounds
        )
        return interval([ratio(before, after) for before, after in pairs])


class Meter:
    """Sends requests from a process of its own, and reads the clocks of the services."""

    def __init__(self, services: Sequence[Service], clients: int) -> None:
        self.services = services
        self.clients = clients
        # Not a copy of this process: it has an event loop and open servers.
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))

    def warm_up(self, endpoint: Endpoint) -> None:
        """Send requests to each version, and set the number for the slices, equal for all."""
        slowest_s = 0.0
        for number, service in enumerate(self.services):
            result = self._send(service, endpoint, number, WARM_UP)
            slowest_s = max(slowest_s, result.seconds / WARM_UP)
        endpoint.count = max(2 * self.clients, int(SLICE_S / slowest_s))

    def slice(self, endpoint: Endpoint, number: int) -> None:
        """Measure one series of requests to the version with this number."""
        service = self.services[number]
        own, servers = family(service.process), family(*service.servers)
        before = cpu_s(own), cpu_s(servers)
        result = self._send(service, endpoint, number, endpoint.count)
        own_s, servers_s = cpu_s(own) - before[0], cpu_s(servers) - before[1]
        costs = endpoint.costs[number]
        costs.service_us.append(1e6 * own_s / endpoint.count)
        costs.servers_us.append(1e6 * servers_s / endpoint.count)
        costs.per_second.append(endpoint.count / result.seconds)
        costs.latencies_ms += [1000 * each for each in result.latencies_s]

    def _send(self, service: Service, endpoint: Endpoint, number: int, count: int) -> client.Slice:
        payload = endpoint.payloads[number]
        result = self.pool.submit(client.send, service.port, payload, count, self.clients).result()
        if wrong := {status for status in result.statuses if status >= 400}:
            raise Unusable(f"{endpoint.name} was answered with {wrong} under load.")
        return result


def measure(meter: Meter, endpoints: Sequence[Endpoint]) -> None:
    """Measure one version."""
    for endpoint in endpoints:
        meter.warm_up(endpoint)
    for _ in range(ROUNDS):
        for endpoint in endpoints:
            meter.slice(endpoint, 0)


def compare(meter: Meter, endpoints: Sequence[Endpoint], threshold: float, most: int) -> None:
    """Measure two versions in turn, each endpoint until its result is clear.

    Endpoints take turns as well, so that a disturbance of the machine meets a round of each.
    """
    for endpoint in endpoints:
        meter.warm_up(endpoint)
    unclear = list(endpoints)
    for number in range(most):
        order = (0, 1, 1, 0) if number % 2 else (1, 0, 0, 1)
        for endpoint in unclear:
            for version in order:
                meter.slice(endpoint, version)
        unclear = [
            each
            for each in unclear
            if not all(each.compared(kind).is_clear(threshold) for kind in ("service", "servers"))
        ]
