"""What a run measured, as plain data; results.json is this, with the summaries of summary.py added."""

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

# Raised when a field is renamed or changes its meaning.
SCHEMA_VERSION = 3

Section = Literal["endpoints", "mixes", "lanes", "caches", "crud", "arena", "clients", "open_loop"]

# Where a latency distribution is known: its smallest and largest value and these shares between them.
QUANTILES = (
    *(0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9),
    *(0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0),
)


@dataclass(frozen=True)
class Sample:
    """What the client saw in one round.

    `latencies_ms` belongs to QUANTILES and is empty when nothing was answered. At a fixed rate a latency counts from
    the moment at which the request was due, and `unanswered` requests count with the time that they have waited.
    """

    seconds: float
    answered: int
    errors: dict[str, int]  # by status code, or "connection", "timeout", "protocol"; they are not in `answered`
    latencies_ms: tuple[float, ...]
    client_cores: float
    unanswered: int = 0
    max_lag_ms: float = 0.0  # how late the client itself was, at worst; it is part of the latencies

    def latency_ms(self, quantile: float) -> float | None:
        """The latency at one of QUANTILES; None when nothing was answered."""
        return self.latencies_ms[QUANTILES.index(quantile)] if self.latencies_ms else None


@dataclass(frozen=True)
class Round:
    """One service under load for some seconds; cores are CPU seconds for each second of the round."""

    sample: Sample
    service_cores: float
    database_cores: float  # with the cache's server
    foreign_cores: float  # of processes that have no part in the benchmark
    memory_bytes: int  # proportional set size of the service's processes, when the round ended
    disturbed: bool  # too much was foreign, and no round free of that could be had

    @property
    def requests_per_s(self) -> float:
        return self.sample.answered / self.sample.seconds

    @property
    def cpu_us(self) -> float | None:
        """CPU time of the service's processes for each request, in microseconds."""
        if not self.sample.answered:
            return None
        return self.service_cores * self.sample.seconds / self.sample.answered * 1e6


@dataclass(frozen=True)
class Measurement:
    """All rounds of one service in one scenario.

    In the sections "lanes", "caches" and "crud" `service` may be a way of the rendered one, as ways.py has them.
    """

    section: Section
    scenario: str
    service: str
    workers: int
    clients: int
    cached: bool
    rounds: tuple[Round, ...]
    rate_per_s: float | None = None  # of an open loop
    response_bytes: int | None = None  # headers included; None for a mix
    discarded: int = 0  # rounds that were repeated because of other processes


@dataclass(frozen=True)
class Probe:
    """A figure that is not had from rounds of requests, with a value for each repetition."""

    name: str
    title: str
    unit: str
    values: tuple[float, ...]
    at_most: float | None = None  # the goal, for the median
    every: bool = False  # or for every value
    of: Literal["cache", "operation"] = "cache"

    @property
    def reached(self) -> bool | None:
        """None without a goal, or without a value."""
        if self.at_most is None or not self.values:
            return None
        return (max(self.values) if self.every else median(self.values)) <= self.at_most


@dataclass(frozen=True)
class Results:
    """One run of the benchmark."""

    started_at: str
    seconds: float
    complete: bool  # False when it was interrupted
    machine: dict[str, str | int | float | bool]
    versions: dict[str, str]
    settings: dict[str, Any]
    services: dict[str, str]  # name -> one line on what it is; ways of the rendered one as well
    scenarios: dict[str, str]  # name -> one line on what is asked
    measurements: list[Measurement] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION} | asdict(self)
