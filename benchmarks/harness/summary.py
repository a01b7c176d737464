"""What the rounds of a run come to: order, medians, ratios and bottlenecks (pure)."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, Literal

from benchmarks.harness.results import QUANTILES, Measurement, Results, Round

BASELINES = ("naive", "usual", "plain", "plain-gc", "raw", "orm", "uncached")
SIGNIFICANT_DIGITS = 5

CLIENT_BUSY_CORES = 0.9
DATABASE_BUSY_CORES = 0.8
# Of the cores that a service of one worker leaves to the client and the database.
OTHERS_BUSY_SHARE = 0.9
# One worker has one core at most; from here on it has hardly any time left.
SERVICE_BUSY_CORES = 0.85
# A backlog at the end of a round is normal, one that has grown to this share of what was due is not.
KEEPS_UP_SHARE = 0.95

Limit = Literal["client", "database", "cores", "waiting"]
Figure = Callable[[Round], float | None]


def schedule(services: Sequence[str], rounds: int) -> list[tuple[int, str]]:
    """The order of rounds as (index of the round, service): A B C C B A A B C ..., so that drift meets all alike."""
    return [
        (number, service)
        for number in range(rounds)
        for service in (services if number % 2 == 0 else reversed(services))
    ]


@dataclass(frozen=True)
class Spread:
    """The median of some rounds, and their range."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float | None]) -> Spread | None:
    """What is known of `values`; None when nothing is."""
    known = [value for value in values if value is not None]
    return Spread(median(known), min(known), max(known)) if known else None


def latency(quantile: float) -> Figure:
    """The figure that is a round's latency, in milliseconds, at one of QUANTILES."""
    return lambda measured: measured.sample.latency_ms(quantile)


def tail(measured: Round) -> float | None:
    """How many times its p50 a round's p99 is."""
    p50, p99 = measured.sample.latency_ms(0.5), measured.sample.latency_ms(0.99)
    return p99 / p50 if p50 and p99 is not None else None


@dataclass(frozen=True)
class Summary:
    """A measurement without its rounds; counts are sums over all of them."""

    requests_per_s: Spread | None
    cpu_us: Spread | None
    p50_ms: Spread | None
    p95_ms: Spread | None
    p99_ms: Spread | None
    max_ms: Spread | None
    service_cores: Spread | None
    database_cores: Spread | None
    client_cores: Spread | None
    memory_bytes: Spread | None
    answered: int
    unanswered: int
    errors: dict[str, int]
    disturbed_rounds: int
    limited_by: Limit | None
    rate_per_s: float | None

    @property
    def keeps_up(self) -> bool:
        """Of an open loop: whether the service answered nearly all of what was due, and as fast as it was due."""
        due = self.answered + self.unanswered + sum(self.errors.values())
        in_time = not self.rate_per_s or (
            self.requests_per_s is not None and self.requests_per_s.median >= KEEPS_UP_SHARE * self.rate_per_s
        )
        return bool(due) and self.answered >= KEEPS_UP_SHARE * due and in_time


def summary(measurement: Measurement, cores: int | None = None) -> Summary:
    """`cores`: how many the machine has, where that is known."""
    rounds = measurement.rounds

    def over(figure: Figure) -> Spread | None:
        return spread([figure(each) for each in rounds])

    return Summary(
        requests_per_s=over(lambda each: each.requests_per_s),
        cpu_us=over(lambda each: each.cpu_us),
        p50_ms=over(latency(0.5)),
        p95_ms=over(latency(0.95)),
        p99_ms=over(latency(0.99)),
        max_ms=over(latency(1.0)),
        service_cores=over(lambda each: each.service_cores),
        database_cores=over(lambda each: each.database_cores),
        client_cores=over(lambda each: each.sample.client_cores),
        memory_bytes=over(lambda each: each.memory_bytes),
        answered=sum(each.sample.answered for each in rounds),
        unanswered=sum(each.sample.unanswered for each in rounds),
        errors=dict(sum((Counter(each.sample.errors) for each in rounds), Counter())),
        disturbed_rounds=sum(each.disturbed for each in rounds),
        limited_by=limited_by(measurement, cores),
        rate_per_s=measurement.rate_per_s,
    )


def limited_by(measurement: Measurement, cores: int | None = None) -> Limit | None:
    """What kept the service from answering more, if that was not its own CPU time.

    - "client": the client had no time left on its core, so the figure is the client's.
    - "database": the service's only worker had time left, while the database used up about a core.
    - "cores": it had time left, while client and database together used up the cores beside the service's.
    - "waiting": the worker, the client and the database all had time left. The worker waited: for a lock, a thread, a
      connection, a call to another service, or for more clients.

    At a fixed rate having time left is what one expects, and with several workers it is not known which of them share
    a core: for these only the client is looked at.
    """
    rounds = measurement.rounds
    if not rounds:
        return None
    if median(each.sample.client_cores for each in rounds) >= CLIENT_BUSY_CORES:
        return "client"
    # Whoever shares a core with strangers has time left for no reason of its own.
    calm = [each for each in rounds if not each.disturbed]
    if measurement.rate_per_s is not None or measurement.workers > 1 or not calm:
        return None
    if median(each.service_cores for each in calm) >= SERVICE_BUSY_CORES:
        return None
    if median(each.database_cores for each in calm) >= DATABASE_BUSY_CORES:
        return "database"
    others = median(each.sample.client_cores + each.database_cores for each in calm)
    if cores is not None and others >= OTHERS_BUSY_SHARE * (cores - 1):
        return "cores"
    return "waiting"


def paired(measurement: Measurement, baseline: Measurement, figure: Figure) -> Spread | None:
    """A figure as a multiple of the baseline's, each round compared with the one of the same number.

    Machines drift within a run; rounds of the same number were measured soon after each other. None when the baseline
    has a round without the figure.
    """
    ratios = []
    for mine, other in zip(measurement.rounds, baseline.rounds, strict=False):
        value, unit = figure(mine), figure(other)
        if not unit:
            # The others would be the rounds in which the baseline happened to do well.
            return None
        if value is not None:
            ratios.append(value / unit)
    return spread(ratios)


def ratio(measurement: Measurement, baseline: Measurement) -> Spread | None:
    """Requests per second as a multiple of the baseline's."""
    return paired(measurement, baseline, lambda each: each.requests_per_s)


def cpu_ratio(measurement: Measurement, baseline: Measurement) -> Spread | None:
    """CPU time for each request as a multiple of the baseline's."""
    return paired(measurement, baseline, lambda each: each.cpu_us)


def errors_text(errors: Mapping[str, int]) -> str:
    """How many there were, and of which kinds."""
    total = sum(errors.values())
    kinds = ", ".join(f"{kind}: {count:,}" for kind, count in sorted(errors.items()) if count)
    return f"{total:,} ({kinds})" if total else "0"


def cores(results: Results) -> int | None:
    """How many cores the machine has, if the results say so."""
    number = results.machine.get("cores")
    return number if isinstance(number, int) else None


def services(results: Results, measurements: Iterable[Measurement]) -> list[str]:
    """The services of `measurements`, in the order in which the results list them."""
    present = dict.fromkeys(each.service for each in measurements)
    return sorted(present, key=[*results.services, *present].index)


def counterpart(results: Results, measurement: Measurement, service: str) -> Measurement | None:
    """The measurement of `service` under the same load; of several the one whose number of workers is closest.

    Whether it was cached does not matter: in one scenario some services have caches to switch on, and others none.
    """

    def load(each: Measurement) -> tuple[str, str, int, float | None]:
        return each.section, each.scenario, each.clients, each.rate_per_s

    same = [each for each in results.measurements if each.service == service and load(each) == load(measurement)]
    return min(same, key=lambda each: abs(each.workers - measurement.workers), default=None)


def document(results: Results) -> dict[str, Any]:
    """What results.json holds: the results, with a summary and ratios in each measurement."""
    whole = results.as_dict() | {"quantiles": list(QUANTILES)}
    whole["measurements"] = [
        _rounded(
            data | {"summary": asdict(summary(measurement, cores(results))), "ratios": _ratios(results, measurement)}
        )
        for data, measurement in zip(whole["measurements"], results.measurements, strict=True)
    ]
    whole["probes"] = [
        _rounded(data | {"median": median(probe.values) if probe.values else None, "reached": probe.reached})
        for data, probe in zip(whole["probes"], results.probes, strict=True)
    ]
    return whole


def _ratios(results: Results, measurement: Measurement) -> dict[str, Any]:
    """By baseline, of those that were measured under the same load."""
    ratios = {}
    for name in BASELINES:
        baseline = counterpart(results, measurement, name)
        if baseline and name != measurement.service:
            by_figure = {"requests_per_s": ratio(measurement, baseline), "cpu_us": cpu_ratio(measurement, baseline)}
            ratios[name] = {figure: value and asdict(value) for figure, value in by_figure.items()}
    return ratios


def _rounded(value: Any) -> Any:
    """Plain data with all floats cut to the digits that mean something."""
    match value:
        case float():
            return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
        case dict():
            return {key: _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
    return value
