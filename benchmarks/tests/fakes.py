"""Results of a run that never was: five services with figures like those that are measured."""

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from benchmarks.harness.results import QUANTILES, Measurement, Probe, Results, Round, Sample, Section
from benchmarks.harness.scenarios import ENDPOINTS, MIXES, SCENARIOS

SERVICES = {
    "naive": "one worker, asyncio and h11, synchronous sessions, N+1, OFFSET, no cache",
    "usual": "gunicorn with 2n + 1 workers, ORJSONResponse, selectinload, a redis-py cache in the route",
    "plain": "FastAPI + asyncpg + orjson by hand, without guards",
    "rendered": "what the template renders, with its production settings",
    "raw": "ASGI with asyncpg and a dict; leaves out validation, routing and errors",
}
# Requests/s in the order of SERVICES.
SPEEDS = {
    "health": (4_100, 6_900, 15_200, 11_800, 41_000),
    "user": (420, 960, 5_300, 5_150, 8_900),
    "posts": (84, 431, 3_700, 3_620, 4_900),
    "posts-deep": (9, 11, 3_600, 3_580, 4_800),
    "users": (21, 190, 610, 590, 980),
    "aggregate": (390, 880, 3_900, 3_820, 5_600),
    "dashboard": (31, 300, 1_150, 1_100, 1_500),
    "write": (260, 410, 4_200, 4_150, 7_100),
    "read-mostly-cached": (84, 683, 2_600, 10_384, 14_200),
    "read-mostly": (84, 610, 1_290, 1_253, 1_690),
    "write-heavy": (330, 560, 3_300, 3_650, 6_400),
}
# Of the lanes, and of the limit beside them.
LANE_SPEEDS = {
    "user": {"orm": 970, "core": 1_900, "prepared": 5_200, "raw": 8_800},
    "posts": {"orm": 940, "orm-selectinload": 430, "core": 1_500, "prepared": 3_600, "raw": 4_900},
    "users": {"orm": 70, "core": 110, "prepared": 590, "raw": 980},
    "write": {"orm": 600, "core": 1_100, "prepared": 2_700, "prepared-autocommit": 4_100, "raw": 7_000},
}
CACHE_SPEEDS = {
    "user-popular": {
        "uncached": 3_800,
        "local": 13_400,
        "shared": 2_800,
        "function": 4_300,
        "cashews": 2_700,
        "redis-in-route": 3_100,
        "raw": 32_000,
    },
    "user": {"uncached": 3_600, "miss": 1_400},
}
CRUD_SPEEDS = {"crud": {"plain": 3_000, "valkey": 2_900, "memory": 3_300, "no-cache": 3_600, "raw": 6_000}}
ARENA_SPEEDS = {
    name: dict(zip(SERVICES, speeds, strict=True))
    for name, speeds in {
        "api-4": (90, 250, 2_100, 2_400, 3_900),
        "async-db": (80, 170, 1_300, 1_500, 2_400),
        "json": (240, 1_000, 2_900, 3_300, 6_500),
    }.items()
}
PROBES = [
    Probe("middleware", "what caching adds to a request", "us", (4.2, 3.9, 14.4), at_most=10),
    Probe("memory", "of 10,000 responses", "MB", (14.0,)),
    Probe("stampede", "queries of many clients at once", "queries", (1, 1, 2), at_most=1, every=True),
    Probe("edge", "the whole edge, of a request", "us of CPU", (31.5, 22.0, 23.0), at_most=25, of="operation"),
    Probe("reload", "lost requests", "requests", (8,), at_most=0, of="operation"),
]


def latencies(p50_ms: float, tail: float = 3.0) -> tuple[float, ...]:
    """A distribution with the given median; p99 is `tail` times that, which is 1.5 or more."""
    grow = (tail - 1.49) / (0.49**2 * 4)
    return tuple(
        round(p50_ms * (0.5 + quantile + grow * max(0.0, quantile - 0.5) ** 2 * 4), 3) for quantile in QUANTILES
    )


def sample(answered: int = 1_000, p50_ms: float = 8.0, tail: float = 3.0, **changes: Any) -> Sample:
    known = latencies(p50_ms, tail) if answered else ()
    return replace(Sample(10.0, answered, {}, known, 0.4), **changes)


def round_(answered: int = 1_000, *, of_sample: dict[str, Any] | None = None, **changes: Any) -> Round:
    """A round of 10 s whose only worker was busy."""
    return replace(Round(sample(answered, **of_sample or {}), 0.97, 0.3, 0.01, 80_000_000, False), **changes)


def measurement(service: str = "rendered", *rounds: Round, **changes: Any) -> Measurement:
    return replace(Measurement("endpoints", "user", service, 1, 40, False, rounds), **changes)


def results(measurements: list[Measurement] | None = None, **changes: Any) -> Results:
    base = Results(
        started_at="2026-01-31T12:00:00+00:00",
        seconds=1_500.0,
        complete=True,
        machine={"cpu": "Fake CPU", "cores": 2, "pinned": True},
        versions={"python": "3.13.0", "postgresql": "15.4"},
        settings={"client": "wrk 4.2", "rounds": 3, "round_s": 10.0, "pool_clients": 40},
        services=SERVICES,
        scenarios={name: scenario.title for name, scenario in SCENARIOS.items()},
        measurements=measurements or [],
    )
    return replace(base, **changes)


def whole_run(seed: int = 0) -> Results:
    """Every section, three rounds each."""
    rng = random.Random(seed)  # noqa: S311 - not for secrets

    def measured(
        section: Section, scenario: str, service: str, speed: float, clients: int = 40, rate: float | None = None
    ) -> Measurement:
        workers = 2 if section in ("mixes", "open_loop") and service != "naive" else 1
        tail = 7.0 if service in ("naive", "usual") else 2.2
        rounds = []
        for _ in range(3):
            reached = speed * rng.uniform(0.95, 1.05)
            answered = min(reached, rate or reached)
            p50_ms = clients / reached * 1e3 if not rate else 1e3 / reached * (1 + 3 * answered / reached)
            if rate and reached < rate:
                p50_ms = 10_000 * (1 - reached / rate)
            rounds.append(
                round_(
                    int(answered * 10),
                    of_sample={
                        "p50_ms": p50_ms,
                        "tail": tail if section != "clients" else 1.7,
                        "client_cores": min(0.95, reached / 45_000),
                        "unanswered": max(0, int(((rate or 0) - answered) * 10)),
                    },
                    service_cores=0.6 if service == "naive" and scenario == "dashboard" else 0.97 * workers,
                    database_cores=rng.uniform(0.1, 0.6),
                    memory_bytes=int(rng.uniform(55e6, 75e6)) * workers,
                )
            )
        size = 300 if section == "endpoints" else None
        return Measurement(
            section, scenario, service, workers, clients, SCENARIOS[scenario].cached, tuple(rounds), rate, size
        )

    every = []
    sections: tuple[tuple[Section, Iterable[str]], ...] = (("endpoints", ENDPOINTS), ("mixes", MIXES))
    for section, names in sections:
        for scenario in names:
            every += [measured(section, scenario, *each) for each in zip(SERVICES, SPEEDS[scenario], strict=True)]
    compared: tuple[tuple[Section, dict[str, dict[str, int]]], ...] = (
        ("lanes", LANE_SPEEDS),
        ("caches", CACHE_SPEEDS),
        ("crud", CRUD_SPEEDS),
        ("arena", ARENA_SPEEDS),
    )
    for section, speeds_of in compared:
        for scenario, speeds in speeds_of.items():
            every += [measured(section, scenario, way, speed) for way, speed in speeds.items()]
    for clients in (1, 4, 16, 40, 160):
        share = clients / (clients + 3)
        every += [
            measured("clients", "user", service, speed * share, clients)
            for service, speed in zip(SERVICES, SPEEDS["user"], strict=True)
        ]
    for scenario, rate in (("read-mostly", 600.0), ("read-mostly-cached", 1_300.0)):
        every += [
            measured("open_loop", scenario, service, speed, 40, rate)
            for service, speed in zip(SERVICES, SPEEDS[scenario], strict=True)
        ]
    return results(every, probes=PROBES)
