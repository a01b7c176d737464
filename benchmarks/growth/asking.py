"""Asks a running service for some seconds: rate, latency and refusals, and the CPU time of each side."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TypedDict

import psutil

from benchmarks import overload
from benchmarks.harness import drivers, machine
from benchmarks.harness.scenarios import Request
from benchmarks.harness.services import Running


class Point(TypedDict):
    """One load; the CPU times are microseconds for each answer, in the service, its servers and the client.

    `foreign_cores` are the cores that other processes of the machine took meanwhile.
    """

    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    service_us: float
    database_us: float
    client_us: float
    foreign_cores: float


class CrowdPoint(TypedDict):
    """A load of clients that wait when they are refused; latencies are of the answers, `refused_p50_ms` of refusals."""

    clients: int
    requests_per_s: float
    refused_per_s: float
    p50_ms: float
    p99_ms: float
    refused_p50_ms: float
    errors: int
    foreign_cores: float


@dataclass
class Used:
    """CPU seconds of the service and of its servers, and the cores that other processes took."""

    service_s: float = 0.0
    database_s: float = 0.0
    foreign_cores: float = 0.0


def ask(
    service: Running, servers: Sequence[psutil.Process], requests: Sequence[Request], *, clients: int, seconds: float
) -> Point:
    """Send the requests in order, over and over, by so many clients in a closed loop.

    Raises:
        DriverError: when nothing was answered, or the load could not be driven.
        ServiceDied: when a process of the service ended.
    """
    encoded = [each.encoded() for each in requests]
    with metered(service, servers) as used:
        sample = drivers.own(drivers.Load(service.port, encoded, clients, seconds))
    if not sample.answered:
        raise drivers.DriverError(f"{clients} clients had no answer: {sample.errors}")
    return {
        "clients": clients,
        "requests_per_s": sample.answered / sample.seconds,
        "p50_ms": sample.latency_ms(0.5) or 0.0,
        "p99_ms": sample.latency_ms(0.99) or 0.0,
        "errors": sum(sample.errors.values()),
        "service_us": used.service_s / sample.answered * 1e6,
        "database_us": used.database_s / sample.answered * 1e6,
        "client_us": sample.client_cores * sample.seconds / sample.answered * 1e6,
        "foreign_cores": used.foreign_cores,
    }


def ask_as_crowd(
    service: Running, servers: Sequence[psutil.Process], requests: Sequence[Request], *, clients: int, seconds: float
) -> CrowdPoint:
    """Send the requests by clients whose connections were accepted before, and who obey `Retry-After`.

    `seconds` begin when the limiter has had time to find its limit.
    """
    texts = [each.encoded().decode("latin-1") for each in requests]
    whole_s = overload.SETTLING_S + seconds
    with metered(service, servers) as used:
        found = overload.asked(service.port, texts, clients, whole_s)
    statuses: dict[str, int] = found["statuses"]
    refused = statuses.pop("503", 0)
    good = sum(count for status, count in statuses.items() if status.startswith("2"))
    return {
        "clients": clients,
        "requests_per_s": overload.goodput(found),
        "refused_per_s": refused / whole_s,
        "p50_ms": found["good_ms"][0],
        "p99_ms": found["good_ms"][1],
        "refused_p50_ms": found["refused_ms"][0],
        "errors": sum(statuses.values()) - good + found["lost"],
        "foreign_cores": used.foreign_cores,
    }


@contextmanager
def metered(service: Running, servers: Sequence[psutil.Process]) -> Iterator[Used]:
    """Fill in what was used until the end; raises ServiceDied when a process of the service ended."""
    used, sides = Used(), ([service.process], servers)
    before, busy_s, own_s, began = _cpu_s(sides), machine.busy_s(), machine.own_cpu_s(), perf_counter()
    yield used
    elapsed_s = perf_counter() - began
    used.service_s, used.database_s = (now - then for now, then in zip(_cpu_s(sides), before, strict=True))
    ours_s = machine.own_cpu_s() - own_s + used.service_s + used.database_s
    used.foreign_cores = max(0.0, (machine.busy_s() - busy_s - ours_s) / elapsed_s)
    service.check()


def _cpu_s(sides: Sequence[Sequence[psutil.Process]]) -> list[float]:
    return [machine.cpu_s(side) for side in sides]
