"""The queueing model: the throughput of a closed network, exactly, from measured demands (pure).

A closed network has a fixed number of clients; each sends its next request when the last one is answered, as the
client of this benchmark does. Its solution needs only the *demand* of a request at each station: seconds of service,
which are measured as CPU time. Nothing is fitted to the curve that it predicts, so a comparison with measured points
can fail. The Universal Scalability Law has three parameters, which would be fitted to the two numbers of workers that
two cores allow: it would pass through both, whatever they are.

`throughputs` is the convolution algorithm (J. P. Buzen, "Computational Algorithms for Closed Queueing Networks with
Exponential Servers", CACM 16, 1973). It gives the same values as mean value analysis (M. Reiser and S. S. Lavenberg,
JACM 27, 1980), whose recursion subtracts probabilities and loses their digits at stations with several servers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Station:
    """A place at which a request waits and is served for `demand_s` seconds in all.

    One queue for `servers` servers (infinitely many: nothing waits), or `queues` equal ones with a server each, of
    which a request joins any.
    """

    demand_s: float
    servers: float = 1
    queues: int = 1

    @property
    def limit_per_s(self) -> float:
        """The highest throughput that the station allows."""
        return self.servers * self.queues / self.demand_s if self.demand_s else inf


@dataclass(frozen=True)
class Demands:
    """CPU time of a request in the service, in the database and in the client, and its time without CPU."""

    service_s: float
    database_s: float
    client_s: float
    delay_s: float

    @property
    def total_s(self) -> float:
        return self.service_s + self.database_s + self.client_s


def throughputs(stations: Sequence[Station], clients: int) -> list[float]:
    """Return the requests per second with 1, 2, ... `clients` clients.

    Raises:
        ValueError: when no station has a demand.
    """
    busy = [each for each in stations if each.demand_s]
    if not busy:
        raise ValueError("a network needs a station with a demand")
    # Of the normalisation constants: as plain numbers, many clients make them too large for a float.
    logs: Any = np.full(clients + 1, -np.inf)
    logs[0] = 0.0
    for station in busy:
        terms = _log_terms(station, clients)
        logs = np.array([np.logaddexp.reduce(logs[: n + 1] + terms[n::-1]) for n in range(clients + 1)])
    return [float(each) for each in np.exp(logs[:-1] - logs[1:])]


def one_machine(demands: Demands, workers: int, cores: int) -> list[Station]:
    """Return the stations of a machine on which service, database and client share the cores.

    A worker runs on one core. Fewer workers than cores leave the other cores to the rest; as many or more share all
    cores with it, and what too many processes cost is not in the model.
    """
    delay = Station(demands.delay_s, servers=inf)
    if workers >= cores:
        return [Station(demands.total_s, servers=cores), delay]
    rest = Station(demands.database_s + demands.client_s, servers=cores - workers)
    return [Station(demands.service_s, queues=workers), rest, delay]


def own_cores(demands: Demands, workers: int, database_cores: int) -> list[Station]:
    """Return the stations of workers with a core each, in any number of instances, and a database beside them."""
    return [
        Station(demands.service_s, queues=workers),
        Station(demands.database_s, servers=database_cores),
        Station(demands.delay_s, servers=inf),
    ]


def latency_ms(clients: int, requests_per_s: float) -> float:
    """Return the mean latency by Little's law."""
    return clients / requests_per_s * 1e3


def _log_terms(station: Station, clients: int) -> Any:
    """Return the logarithms of the station's factors for 0 to `clients` requests at it."""
    present = np.arange(1, clients + 1)
    if station.queues > 1:
        factors = station.demand_s / station.queues * (present + station.queues - 1) / present
    else:
        factors = station.demand_s / np.minimum(present, station.servers)
    return np.concatenate(([0.0], np.cumsum(np.log(factors))))
