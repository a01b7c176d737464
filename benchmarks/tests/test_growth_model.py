"""The queueing model, against textbook cases, another algorithm, and what holds for every network."""

import random
from collections.abc import Sequence
from math import inf

import pytest

from benchmarks.growth.model import Demands, Station, latency_ms, one_machine, own_cores, throughputs


def mean_value_analysis(demands: Sequence[float], delay_s: float, clients: int) -> list[float]:
    """Reiser and Lavenberg's recursion for stations with one server."""
    lengths, found = [0.0] * len(demands), []
    for number in range(1, clients + 1):
        times = [demand * (1 + length) for demand, length in zip(demands, lengths, strict=True)]
        found.append(number / (sum(times) + delay_s))
        lengths = [found[-1] * time for time in times]
    return found


@pytest.mark.parametrize(
    ("stations", "expected"),
    [
        # One server is busy from the first client on.
        ([Station(0.5)], [2, 2, 2]),
        # Nothing waits.
        ([Station(0.5, servers=inf)], [2, 4, 6]),
        # n / (n + 1) of the limit: balanced stations (Lazowska et al., Quantitative System Performance, section 5.4).
        ([Station(1), Station(1)], [1 / 2, 2 / 3, 3 / 4]),
        ([Station(2, queues=2)], [1 / 2, 2 / 3, 3 / 4]),
        ([Station(1, servers=2)], [1, 2, 2]),
        # The machine repairman with one repairer: G(n) = sum of Z**k / k!, with Z = 2.
        ([Station(1), Station(2, servers=inf)], [1 / 3, 3 / 5, 5 / (1 + 2 + 2 + 8 / 6)]),
        ([Station(0), Station(0.5)], [2, 2, 2]),
    ],
)
def test_known_networks(stations: list[Station], expected: list[float]) -> None:
    assert throughputs(stations, 3) == pytest.approx(expected)


def test_a_network_without_a_demand_has_no_throughput() -> None:
    with pytest.raises(ValueError, match="a station with a demand"):
        throughputs([Station(0)], 1)


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_mean_value_analysis(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    demands = [rng.uniform(1e-5, 1e-2) for _ in range(rng.randint(1, 5))]
    delay_s = rng.choice([0, rng.uniform(0, 0.1)])
    stations = [*map(Station, demands), Station(delay_s, servers=inf)]
    assert throughputs(stations, 200) == pytest.approx(mean_value_analysis(demands, delay_s, 200))


@pytest.mark.parametrize("seed", range(20))
def test_more_clients_never_get_less_and_never_more_than_the_bounds(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 - not for secrets
    stations = [
        Station(rng.uniform(1e-5, 1e-2), servers=rng.randint(1, 8)),
        Station(rng.uniform(1e-5, 1e-2), queues=rng.randint(1, 64)),
        Station(rng.uniform(0, 1e-2), servers=inf),
    ]
    found = throughputs(stations, 300)
    limit = min(each.limit_per_s for each in stations)
    alone = sum(each.demand_s for each in stations)
    assert found[0] == pytest.approx(1 / alone)
    for number, rate in enumerate(found, 1):
        assert rate <= min(limit, number / alone) * (1 + 1e-9)
        assert number == 1 or rate >= found[number - 2] * (1 - 1e-9)


def test_workers_beyond_the_cores_add_nothing() -> None:
    demands = Demands(200e-6, 100e-6, 50e-6, 1e-3)
    one, two, eight = (throughputs(one_machine(demands, workers, 2), 100)[-1] for workers in (1, 2, 8))
    assert one < two == eight == pytest.approx(2 / demands.total_s, rel=0.01)


def test_the_database_bounds_instances() -> None:
    demands = Demands(200e-6, 100e-6, 50e-6, 0)
    few, many = (throughputs(own_cores(demands, workers, 2), 400)[-1] for workers in (2, 64))
    assert few == pytest.approx(2 / 200e-6, rel=0.02)
    assert many == pytest.approx(2 / 100e-6, rel=0.02)


def test_littles_law() -> None:
    assert latency_ms(20, 1000) == 20


def test_thousands_of_clients_and_a_long_delay_have_no_overflow() -> None:
    found = throughputs(own_cores(Demands(200e-6, 10e-6, 0, 0.1), 256, 64), 5000)
    assert found[-1] == pytest.approx(5000 / (0.1 + 210e-6), rel=0.01)
