"""Asks a running service for some seconds: rate, latency and refusals, and the CPU time of each side."""

from collections.abc import Sequence
from time import perf_counter
from typing import TypedDict

import psutil

from benchmarks.harness import drivers, machine
from benchmarks.harness.scenarios import Request
from benchmarks.harness.services import Running

# A refused client of this benchmark asks again at once.
REFUSED = "503"


class Point(TypedDict):
    """One load; the CPU times are microseconds for each answer, in the service, its servers and the client.

    `foreign_cores` are the cores that other processes of the machine took meanwhile.
    """

    clients: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    refused_per_s: float
    errors: int
    service_us: float
    database_us: float
    client_us: float
    foreign_cores: float


def ask(
    service: Running, servers: Sequence[psutil.Process], requests: Sequence[Request], *, clients: int, seconds: float
) -> Point:
    """Send the requests in order, over and over, by so many clients in a closed loop.

    Raises:
        DriverError: when nothing was answered, or the load could not be driven.
        ServiceDied: when a process of the service ended.
    """
    sides = ([service.process], servers)
    before = [machine.cpu_s(side) for side in sides]
    busy_s, own_s, began = machine.busy_s(), machine.own_cpu_s(), perf_counter()
    encoded = [each.encoded() for each in requests]
    sample = drivers.own(drivers.Load(service.port, encoded, clients, seconds))
    elapsed_s = perf_counter() - began
    service_s, database_s = (machine.cpu_s(side) - earlier for side, earlier in zip(sides, before, strict=True))
    foreign_s = machine.busy_s() - busy_s - (machine.own_cpu_s() - own_s) - service_s - database_s
    service.check()
    if not sample.answered:
        raise drivers.DriverError(f"{clients} clients had no answer: {sample.errors}")
    refused = sample.errors.get(REFUSED, 0)
    return {
        "clients": clients,
        "requests_per_s": sample.answered / sample.seconds,
        "p50_ms": sample.latency_ms(0.5) or 0.0,
        "p99_ms": sample.latency_ms(0.99) or 0.0,
        "refused_per_s": refused / sample.seconds,
        "errors": sum(sample.errors.values()) - refused,
        "service_us": service_s / sample.answered * 1e6,
        "database_us": database_s / sample.answered * 1e6,
        "client_us": sample.client_cores * sample.seconds / sample.answered * 1e6,
        "foreign_cores": max(0.0, foreign_s / elapsed_s),
    }
