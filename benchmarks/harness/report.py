"""The results as Markdown: in short, all at a glance, details, goals, latency at a fixed rate, notes (pure)."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, Literal, TypeVar

from benchmarks.harness.goals import GOALS, SUBJECT, Goal, verdicts
from benchmarks.harness.results import Measurement, Probe, Results, Section
from benchmarks.harness.scenarios import ARENA
from benchmarks.harness.summary import (
    CLIENT_BUSY_CORES,
    DATABASE_BUSY_CORES,
    KEEPS_UP_SHARE,
    SERVICE_BUSY_CORES,
    Limit,
    Spread,
    Summary,
    cores,
    counterpart,
    errors_text,
    ratio,
    services,
    spread,
    summary,
)

Key = TypeVar("Key", bound=Hashable)

NOTHING = "-"
TITLES: dict[Section, str] = {"mixes": "Mixes", "endpoints": "Endpoints", "clients": "Numbers of clients"}

# Of comparisons: heading, what a way is called, the one that others are a multiple of, and what they are.
WAYS: dict[Section, tuple[str, str, str, str]] = {
    "lanes": ("Lanes", "lane", "orm", f"The ways of one running {SUBJECT} service to its database"),
    "caches": ("Caches", "way", "uncached", f"The ways of one running {SUBJECT} service to a user that may be cached"),
    "crud": ("HttpArena's crud", "service", "plain", f"One worker of {SUBJECT} with each cache, and of other services"),
    "arena": ("HttpArena's api-4, async-db and json", "service", "plain", "One worker of each service, without caches"),
}

Mark = Literal["disturbed", "errors", Limit]
_IDLE = f", while the service's one worker used less than {SERVICE_BUSY_CORES:g} of a core"
# Letters, because a raised digit behind a number reads as a power of it.
MARKS: dict[Mark, tuple[str, str]] = {
    "disturbed": (
        "†",
        "other processes took CPU time in at least one round, and repeating did not help or was used up",
    ),
    "errors": ("ᵉ", "some requests failed; they are not counted among the answered"),
    "client": ("ᶜ", f"the client was the limit ({CLIENT_BUSY_CORES:g} cores or more): the service may be faster"),
    "database": ("ᵈ", f"the database was the limit ({DATABASE_BUSY_CORES:g} cores or more){_IDLE}"),
    "cores": ("ᵏ", f"the client and the database used up the cores beside the service's{_IDLE}"),
    "waiting": (
        "ʷ",
        f"the client and the database had time left{_IDLE}: it waited for a lock, a thread, a connection, another "
        "service or more clients",
    ),
}


PROBED = {"cache": "The cache, probed", "operation": "Operation"}


def markdown(results: Results) -> str:
    """The whole report; parts for which nothing was measured say so or are left out."""
    parts = [
        _header(results),
        short(results),
        *main_tables(results),
        *(_details(results, section) for section in TITLES),
        _goals(results),
        _open_loop(results),
        _notes(results),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _header(results: Results) -> str:
    disturbed = sum(summary(each, cores(results)).disturbed_rounds for each in results.measurements)
    lines = [
        "# Benchmark",
        "",
        f"Started {results.started_at}, took {results.seconds / 60:.1f} minutes; "
        + (
            "complete."
            if results.complete
            else "**not complete (interrupted, or ended by an error): what follows is a part of it.**"
        ),
        "",
        f"- Machine: {_pairs(results.machine)}",
        f"- Versions: {_pairs(results.versions)}",
        f"- Client: {results.settings.get('client', 'not recorded')}",
        f"- Settings: {_pairs({key: value for key, value in results.settings.items() if key != 'client'})}",
        f"- Rounds repeated because other processes took CPU time: {sum(m.discarded for m in results.measurements)}; "
        f"kept in spite of that: {disturbed}",
    ]
    return "\n".join(lines)


def main_tables(results: Results) -> list[str]:
    """The services, each comparison of ways, and what was probed beside them, at a glance."""
    parts = [whole_picture(results), *(compared(results, each) for each in WAYS)]
    parts += [probed(results, of, title) for of, title in PROBED.items()]
    return [part for part in parts if part]


def whole_picture(results: Results) -> str:
    measured = [each for section in ("mixes", "endpoints") for each in results.measurements if each.section == section]
    if not measured:
        return ""
    names = services(results, measured)
    marks: set[Mark] = set()

    def cell(measurement: Measurement, several: bool) -> str:
        total = summary(measurement, cores(results))
        text = _spread(total.requests_per_s, plain, ranged=False) + _marked(total, marks)
        against = _ratio(results, measurement, "naive", times)
        text += f" ({against})" if against != NOTHING else ""
        return f"{measurement.workers} workers: {text}" if several else text

    rows = []
    for (_, scenario, clients), group in _grouped(measured, lambda m: (m.section, m.scenario, m.clients)).items():
        by_service = _grouped(group, lambda m: m.service)
        cells = []
        for service in names:
            mine = by_service.get(service, [])
            cells.append("<br>".join(cell(each, len(mine) > 1) for each in mine) or NOTHING)
        rows.append([scenario, str(clients), *cells])
    brackets = ", in brackets as a multiple of the naive service's" if "naive" in names else ""
    lines = ["## The whole picture", "", f"Requests/s{brackets}.", ""]
    return "\n".join([*lines, _table(["scenario", "clients", *names], rows), *_footnotes(marks)])


def compared(results: Results, section: Section) -> str:
    """The ways of a comparison, scenario by scenario."""
    measured = [each for each in results.measurements if each.section == section]
    if not measured:
        return ""
    title, way, baseline, intro = WAYS[section]
    marks: set[Mark] = set()
    rows = []
    for each in measured:
        total = summary(each, cores(results))
        rows.append(
            [
                each.scenario,
                each.service,
                _spread(total.requests_per_s, plain) + _marked(total, marks),
                _ratio(results, each, baseline, times),
                _ratio(results, each, "raw", share),
                *(_spread(it, plain, ranged=False) for it in (total.cpu_us, total.p50_ms, total.p95_ms, total.p99_ms)),
                errors_text(total.errors),
            ]
        )
    headers = ["scenario", way, "requests/s (low-high)", f"of {baseline}", "of raw", "CPU us/request"]
    headers += ["p50 ms", "p95 ms", "p99 ms", "errors"]
    clients = " or ".join(str(number) for number in sorted({each.clients for each in measured}))
    lines = [
        f"## {title}",
        "",
        f"{intro}, with {clients} clients, in turns and with equal answers"
        + ("." if way == "service" else "; raw is a service beside it."),
        "",
        _table(*_without_empty(headers, rows), text=(0, 1)),
    ]
    return "\n".join([*lines, *_footnotes(marks)])


def probed(results: Results, of: str, title: str) -> str:
    """What was measured otherwise than in rounds."""
    chosen = [each for each in results.probes if each.of == of]
    if not chosen:
        return ""
    rows = []
    for each in chosen:
        median_and_range = _spread(spread(each.values), plain)
        rows.append([each.name, each.title, median_and_range, each.unit, _bound(each), _verdict(each)])
    headers = ["figure", "what", "median (low-high)", "unit", "goal", ""]
    return "\n".join([f"## {title}", "", _table(headers, rows, text=(0, 1, 3, 5))])


def _details(results: Results, section: Section) -> str:
    measured = [each for each in results.measurements if each.section == section]
    if not measured:
        return ""
    marks: set[Mark] = set()
    lines = [f"## {TITLES[section]}"]
    # Where the number of clients is what varies, it is a column and not a heading.
    varies = section == "clients"
    for (scenario, clients), group in _grouped(measured, lambda m: (m.scenario, None if varies else m.clients)).items():
        title = results.scenarios.get(scenario, "")
        heading = f"### {scenario}" + (f": {title}" if title else "") + (f" ({clients} clients)" if clients else "")
        order = services(results, group)
        group = sorted(group, key=lambda m: (m.clients, order.index(m.service), m.workers))
        headers = ["service", *(["clients"] if varies else []), *DETAILS]
        rows = [
            [each.service, *([str(each.clients)] if varies else []), *_detail(results, each, marks)] for each in group
        ]
        lines += ["", heading, "", _table(*_without_empty(headers, rows))]
    return "\n".join([*lines, *_footnotes(marks)])


DETAILS = (
    *("workers", "requests/s (low-high)", "of naive", "of usual", "of raw", "of plain", "CPU us/request"),
    *("p50 ms", "p95 ms", "p99 ms", "errors", "memory MB", "bytes/answer"),
)


def _detail(results: Results, measurement: Measurement, marks: set[Mark]) -> list[str]:
    """The cells of DETAILS."""
    total = summary(measurement, cores(results))
    return [
        str(measurement.workers),
        _spread(total.requests_per_s, plain) + _marked(total, marks),
        _ratio(results, measurement, "naive", times),
        _ratio(results, measurement, "usual", times),
        _ratio(results, measurement, "raw", share),
        _ratio(results, measurement, "plain", share),
        *(_spread(each, plain, ranged=False) for each in (total.cpu_us, total.p50_ms, total.p95_ms, total.p99_ms)),
        errors_text(total.errors),
        _spread(total.memory_bytes, megabytes, ranged=False),
        NOTHING if measurement.response_bytes is None else f"{measurement.response_bytes:,}",
    ]


# Around the part of the report that README.md has as well.
SHORT = ("<!-- speed, from docs/performance/results.md: nox -s docs -->", "<!-- end of speed -->")
COMPARED = {
    "naive": "the naive service",
    "usual": "the usual service",
    "plain": "FastAPI and asyncpg by hand",
    "plain-gc": "the same with the garbage collection of this service",
    "raw": "bare ASGI, the limit",
}
SHORT_MIXES = {
    "read-mostly": "9 reads to 1 write, no cache",
    "read-mostly-cached": "the same, caches on",
    "write-heavy": "half writes, caches on",
}


def short(results: Results) -> str:
    """The subject's requests per second as multiples of the other services', a hit, and the goals."""
    rows = []
    for name, title in COMPARED.items():
        cells = [_cell([_multiple(results, "mixes", scenario, SUBJECT, name)]) for scenario in SHORT_MIXES]
        cells.append(_cell([_multiple(results, "crud", "crud", way, name) for way in ("valkey", "memory", "no-cache")]))
        cells.append(_cell([_multiple(results, "arena", scenario, SUBJECT, name) for scenario in ARENA]))
        known = [
            ratio.median
            for each in results.measurements
            if (each.section, each.service) == ("endpoints", SUBJECT)
            and (ratio := _multiple(results, "endpoints", each.scenario, SUBJECT, name))
        ]
        ends = f"{_times(min(known))} to {_times(max(known))} ({_times(median(known))})" if known else NOTHING
        rows.append([title, *cells, ends])
    rows = [row for row in rows if set(row[1:]) != {NOTHING}]
    if not rows:
        return ""
    headers = ["compared with", *SHORT_MIXES.values(), "HttpArena's crud: Valkey, memory, no cache"]
    headers += [f"HttpArena's {', '.join(ARENA)}"]
    headers.append("single endpoints: lowest to highest (median)")
    lines = [
        f"Requests per second of the {SUBJECT} service, with all its guards, as multiples of those of other services "
        "with the same endpoints, rows and responses:",
        "",
        _table(*_without_empty(headers, rows)),
        "",
    ]
    hit = _multiple(results, "caches", "user-popular", "local", "uncached")
    if hit:
        lines.append(
            f"A hit in the worker's own cache is {_times(hit.median)} as fast as the same read without a cache."
        )
    found = [verdict for goal in GOALS for verdict in verdicts(goal, results) if verdict.value]
    missed = [verdict for verdict in found if not verdict.is_reached]
    probes = [each for each in results.probes if each.reached is not None]
    names = [f"{verdict.subject}, {verdict.goal.name}" for verdict in missed]
    names += [each.title for each in probes if not each.reached]
    number = len(found) + len(probes)
    lines.append(
        f"{number - len(names)} of {number} goals are reached"
        + ("; missed: " + "; ".join(names) if names else "")
        + "."
    )
    return "\n".join(["## In short", "", SHORT[0], "", *lines, "", SHORT[1]])


def _bound(probe: Probe) -> str:
    return NOTHING if probe.at_most is None else f"at most {probe.at_most:g}" + (", always" if probe.every else "")


def _verdict(probe: Probe) -> str:
    return {None: "", True: "reached", False: "**missed**"}[probe.reached]


def _multiple(results: Results, section: Section, scenario: str, service: str, other: str) -> Spread | None:
    for each in results.measurements:
        if (each.section, each.scenario, each.service) == (section, scenario, service):
            baseline = counterpart(results, each, other)
            return ratio(each, baseline) if baseline else None
    return None


def _cell(multiples: Sequence[Spread | None]) -> str:
    known = [_times(each.median) if each else NOTHING for each in multiples]
    return NOTHING if set(known) == {NOTHING} else ", ".join(known)


def _times(value: float) -> str:
    """Two digits behind the point, because goals are that close; none for large multiples."""
    return f"{value:,.0f}x" if value >= 9.95 else f"{value:.2f}x"


def _goals(results: Results) -> str:
    measured = {each.service for each in results.measurements}
    if measured.isdisjoint(goal.service for goal in GOALS) and not results.probes:
        return f"## Goals\n\nNot measured: they are of the whole {SUBJECT} service, which had no part in this run."
    rows = [
        [
            verdict.subject,
            goal.name,
            ("at least " if goal.at_least else "at most ") + _form(goal)(goal.bound),
            _spread(verdict.value, _form(goal)),
            verdict.text,
            "; ".join(verdict.remarks),
        ]
        for goal in GOALS
        for verdict in verdicts(goal, results)
    ]
    rows += [
        [each.of, f"{each.title}, {each.unit}", _bound(each), _spread(spread(each.values), plain), _verdict(each), ""]
        for each in results.probes
        if each.reached is not None
    ]
    headers = ["scenario", f"figure of {SUBJECT}", "goal", "measured (low-high)", "", "remarks"]
    return "\n".join(["## Goals", "", _table(headers, rows, text=(0, 1, 4, 5))])


def _form(goal: Goal) -> Callable[[float], str]:
    """How a goal's figures are written: in four digits, so that a narrow miss does not look like the goal."""

    def digits(value: float) -> str:
        return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"

    if goal.figure == "p95":
        return lambda value: f"1/{digits(1 / value)}" if 0 < value < 1 else f"{digits(value)}x"
    if goal.at_least and goal.bound < 1:
        return lambda value: f"{digits(100 * value)} %"
    return lambda value: f"{digits(value)}x"


def _open_loop(results: Results) -> str:
    measured = [each for each in results.measurements if each.section == "open_loop"]
    if not measured:
        return ""
    marks: set[Mark] = set()
    rows = []
    for (scenario, rate, _), group in _grouped(measured, lambda m: (m.scenario, m.rate_per_s, m.clients)).items():
        order = services(results, group)
        for each in sorted(group, key=lambda m: order.index(m.service)):
            total = summary(each, cores(results))
            latencies = (total.p50_ms, total.p95_ms, total.p99_ms, total.max_ms)
            rows.append(
                [
                    scenario,
                    each.service,
                    str(each.workers),
                    plain(rate) if rate else NOTHING,
                    _spread(total.requests_per_s, plain, ranged=False) + _marked(total, marks),
                    f"{total.unanswered:,}",
                    errors_text(total.errors),
                    *(_spread(latency_ms, plain, ranged=False) for latency_ms in latencies),
                    plain(max((one.sample.max_lag_ms for one in each.rounds), default=0.0)),
                    _keeps_up(total),
                ]
            )
    headers = ["scenario", "service", "workers", "due/s", "answered/s", "unanswered", "errors"]
    headers += ["p50 ms", "p95 ms", "p99 ms", "max ms", "client late ms", "keeps up"]
    lines = [
        "## Latency at a fixed rate",
        "",
        "Requests are sent when they are due, whether or not earlier ones were answered, and their latency counts from "
        f"then. A service that answers less than {share(KEEPS_UP_SHARE)} of what is due cannot keep up: its latencies "
        "grow for as long as the round lasts and say nothing else. How late the client itself was, at worst, is part "
        "of the latencies and stands beside them.",
        "",
    ]
    return "\n".join([*lines, _table(headers, rows, text=(0, 1, len(headers) - 1)), *_footnotes(marks)])


def _keeps_up(total: Summary) -> str:
    if total.keeps_up:
        return "yes"
    due = total.answered + total.unanswered + sum(total.errors.values())
    return "**cannot keep up**" + (f": {share(total.answered / due)} answered" if due else "")


def _notes(results: Results) -> str:
    lines = ["## Notes", ""]
    lines += [f"- **{name}**: {text}" for name, text in results.services.items()]
    if results.scenarios:
        lines += ["", "What is asked:", ""]
        lines += [f"- {name}: {text}" for name, text in results.scenarios.items()]
    lines += [
        "",
        "How to read this:",
        "",
        "- A figure is the median of its rounds. Compare within one run only: machines drift from run to run.",
        "- A ratio is the median of the ratios of rounds with the same number, which were measured soon after each "
        "other; it may differ a little from the ratio of the medians.",
        "- CPU time is that of all processes of the service, and the steadiest column. Memory is their proportional "
        "set size at the end of a round. Bytes of an answer include its headers.",
        "- Requests that failed are errors and not among the requests/s.",
    ]
    return "\n".join(lines)


def plain(value: float) -> str:
    """Three significant digits, more in front of the point."""
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"


def times(value: float) -> str:
    if value >= 9.95:
        return f"{value:,.0f}x"
    return f"{value:.1f}x" if value >= 0.995 else f"{value:.2f}x"


def share(value: float) -> str:
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def megabytes(value: float) -> str:
    return f"{value / 1e6:,.0f}"


def _spread(value: Spread | None, form: Callable[[float], str], *, ranged: bool = True) -> str:
    if value is None:
        return NOTHING
    text = form(value.median)
    ends = list(dict.fromkeys((form(value.low), form(value.high))))
    return f"{text} ({'-'.join(ends)})" if ranged and len(ends) > 1 else text


def _ratio(results: Results, measurement: Measurement, name: str, form: Callable[[float], str]) -> str:
    baseline = counterpart(results, measurement, name)
    return _spread(ratio(measurement, baseline), form, ranged=False) if baseline else NOTHING


def _marked(total: Summary, marks: set[Mark]) -> str:
    """The marks of a figure, with a space in front; also adds them to `marks`."""
    mine: list[Mark] = ["disturbed"] if total.disturbed_rounds else []
    if total.errors:
        mine.append("errors")
    if total.limited_by:
        mine.append(total.limited_by)
    marks.update(mine)
    return "".join(f" {MARKS[each][0]}" for each in mine)


def _footnotes(marks: set[Mark]) -> list[str]:
    used = [f"{sign} {text}." for mark, (sign, text) in MARKS.items() if mark in marks]
    return ["", "<br>\n".join(used)] if used else []


def _grouped(measurements: Iterable[Measurement], key: Callable[[Measurement], Key]) -> dict[Key, list[Measurement]]:
    groups: dict[Key, list[Measurement]] = {}
    for each in measurements:
        groups.setdefault(key(each), []).append(each)
    return groups


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in values.items()) or "not recorded"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return f"({_pairs(value)})"
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(map(_value, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _without_empty(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Without columns that say nothing in any row."""
    kept = [column for column in range(len(headers)) if any(row[column] != NOTHING for row in rows)]
    return [headers[column] for column in kept], [[row[column] for column in kept] for row in rows]


def _table(headers: Sequence[str], rows: Iterable[Sequence[str]], text: Sequence[int] = (0,)) -> str:
    """A table of pipes; columns are aligned to the right, except those of `text`."""
    rule = ["---" if column in text else "---:" for column in range(len(headers))]
    lines = [headers, rule, *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
