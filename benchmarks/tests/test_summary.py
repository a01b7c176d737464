"""Orders, medians, ratios and bottlenecks."""

import json
from collections import Counter
from typing import Any

import pytest

from benchmarks.harness.results import QUANTILES, Measurement, Results
from benchmarks.harness.summary import (
    Spread,
    counterpart,
    cpu_ratio,
    document,
    latency,
    limited_by,
    paired,
    ratio,
    schedule,
    services,
    spread,
    summary,
    tail,
)
from benchmarks.tests import fakes
from benchmarks.tests.fakes import measurement, results, round_


@pytest.mark.parametrize(
    ("names", "rounds", "order"),
    [
        ("ABCD", 0, ""),
        ("", 3, ""),
        ("ABCD", 1, "ABCD"),
        ("ABCD", 2, "ABCDDCBA"),
        ("ABCD", 3, "ABCDDCBAABCD"),
        ("A", 3, "AAA"),
        ("AB", 4, "ABBAABBA"),
    ],
)
def test_schedule(names: str, rounds: int, order: str) -> None:
    scheduled = schedule(names, rounds)
    assert "".join(service for _, service in scheduled) == order
    assert [number for number, _ in scheduled] == sorted(number for number, _ in scheduled)
    # Each service once in each round: what pairs the rounds of two services relies on this.
    assert Counter(scheduled) == Counter((number, name) for number in range(rounds) for name in names)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([None, None], None),
        ([3.0], Spread(3.0, 3.0, 3.0)),
        ([9.0, 1.0, 2.0], Spread(2.0, 1.0, 9.0)),
        ([4.0, 1.0, 2.0, 3.0], Spread(2.5, 1.0, 4.0)),
        ([5.0, None, 1.0], Spread(3.0, 1.0, 5.0)),
    ],
)
def test_spread(values: list[float | None], expected: Spread | None) -> None:
    assert spread(values) == expected


def test_a_summary_has_the_medians_and_sums_of_its_rounds() -> None:
    total = summary(
        measurement(
            "rendered",
            round_(1_000, of_sample={"errors": {"503": 2, "timeout": 1}, "p50_ms": 4.0}, memory_bytes=50_000_000),
            round_(3_000, of_sample={"errors": {"503": 5}, "p50_ms": 6.0, "unanswered": 7}, disturbed=True),
            round_(2_000, of_sample={"p50_ms": 5.0}, service_cores=0.5),
        )
    )
    assert total.requests_per_s == Spread(200.0, 100.0, 300.0)
    assert total.cpu_us is not None
    assert total.cpu_us.high == pytest.approx(9_700)  # 0.97 cores for 10 s and 1,000 requests
    assert total.cpu_us.low == pytest.approx(2_500)
    assert total.p50_ms == Spread(5.0, 4.0, 6.0)
    assert total.p99_ms is not None
    assert total.max_ms is not None
    assert total.p99_ms.median < total.max_ms.median
    assert total.memory_bytes == Spread(80_000_000, 50_000_000, 80_000_000)
    assert (total.answered, total.unanswered, total.errors) == (6_000, 7, {"503": 7, "timeout": 1})
    assert total.disturbed_rounds == 1


def test_a_service_without_answers_has_no_latencies_and_no_cpu_time_for_a_request() -> None:
    total = summary(measurement("rendered", round_(0), round_(0)))
    assert total.requests_per_s == Spread(0.0, 0.0, 0.0)
    assert (total.cpu_us, total.p50_ms, total.p95_ms, total.p99_ms, total.max_ms) == (None,) * 5
    assert tail(round_(0)) is None


def test_a_measurement_that_was_interrupted_before_its_first_round_is_empty() -> None:
    total = summary(measurement("rendered"))
    assert total.requests_per_s is None
    assert (total.memory_bytes, total.answered, total.errors, total.limited_by) == (None, 0, {}, None)


@pytest.mark.parametrize(
    ("service", "database", "client", "cores", "changes", "expected"),
    [
        (0.97, 0.3, 0.4, 2, {}, None),
        (0.85, 0.3, 0.4, 2, {}, None),
        (0.97, 0.3, 0.9, 2, {}, "client"),
        (0.5, 0.9, 0.95, 2, {}, "client"),
        (0.5, 0.8, 0.1, 2, {}, "database"),
        (0.97, 0.9, 0.1, 2, {}, None),
        # Client and database share the second of two cores, and have one each of four.
        (0.5, 0.5, 0.4, 2, {}, "cores"),
        (0.5, 0.5, 0.4, 4, {}, "waiting"),
        (0.5, 0.5, 0.4, None, {}, "waiting"),
        (0.84, 0.2, 0.2, 2, {}, "waiting"),
        (0.2, 0.2, 0.1, 2, {"rate_per_s": 50.0}, None),
        (0.2, 0.2, 0.95, 2, {"rate_per_s": 50.0}, "client"),
        (0.5, 0.9, 0.3, 2, {"workers": 2}, None),
        (1.2, 0.2, 0.92, 2, {"workers": 2}, "client"),
    ],
)
def test_limit(
    service: float, database: float, client: float, cores: int | None, changes: dict[str, Any], expected: str | None
) -> None:
    one = round_(of_sample={"client_cores": client}, service_cores=service, database_cores=database)
    idle = round_(of_sample={"client_cores": 0.0}, service_cores=0.97, database_cores=0.0)
    busy = measurement("rendered", one, idle, one, **changes)
    assert limited_by(busy, cores) == expected
    assert summary(busy, cores).limited_by == expected


def test_disturbed_rounds_do_not_make_a_service_look_idle() -> None:
    squeezed, busy = round_(service_cores=0.5, disturbed=True), round_(service_cores=0.97)
    assert limited_by(measurement("rendered", squeezed, squeezed)) is None
    assert limited_by(measurement("rendered", squeezed, squeezed, busy)) is None
    assert limited_by(measurement("rendered", squeezed, round_(service_cores=0.5))) == "waiting"


def test_ratios_are_those_of_rounds_with_the_same_number() -> None:
    # The machine became twice as slow: the ratio of the medians would be 1.5, and wrong.
    mine = measurement("rendered", round_(4_000), round_(2_000), round_(2_000))
    other = measurement("naive", round_(2_000), round_(1_000), round_(500))
    assert ratio(mine, other) == Spread(2.0, 2.0, 4.0)


def test_ratios_of_cpu_time_and_latency() -> None:
    mine = measurement("rendered", round_(2_000, of_sample={"p50_ms": 2.0}))
    other = measurement("naive", round_(1_000, of_sample={"p50_ms": 8.0}))
    assert cpu_ratio(mine, other) == Spread(0.5, 0.5, 0.5)
    compared = paired(mine, other, latency(0.95))
    assert compared is not None
    assert compared.median == pytest.approx(0.25, rel=0.01)


@pytest.mark.parametrize(
    ("mine", "other", "expected"),
    [
        ([100, 100, 100], [50], Spread(2.0, 2.0, 2.0)),
        ([], [50], None),
        ([100], [], None),
        ([100], [0], None),
        ([100, 100], [0, 50], None),
        ([0], [50], Spread(0.0, 0.0, 0.0)),
    ],
)
def test_ratios_of_what_is_left_of_an_interrupted_run(
    mine: list[int], other: list[int], expected: Spread | None
) -> None:
    assert ratio(measurement("rendered", *map(round_, mine)), measurement("naive", *map(round_, other))) == expected


@pytest.mark.parametrize("changes", [{"section": "mixes"}, {"scenario": "posts"}, {"clients": 1}, {"rate_per_s": 5.0}])
def test_only_the_same_load_is_compared(changes: dict[str, Any]) -> None:
    mine = measurement("rendered", round_())
    assert counterpart(results([mine, measurement("naive", round_(), **changes)]), mine, "naive") is None


def test_the_counterpart_may_be_without_a_cache_and_has_as_many_workers_as_possible() -> None:
    mine = measurement("rendered", round_(), cached=True, workers=2)
    others = [measurement("naive", round_(), workers=workers) for workers in (1, 2, 8)]
    assert counterpart(results([mine, *others]), mine, "naive") is others[1]
    assert counterpart(results([mine, others[2]]), mine, "naive") is others[2]


@pytest.mark.parametrize(
    ("due", "answered", "errors", "keeps_up"), [(100, 95, 0, True), (100, 94, 0, False), (100, 94, 6, False)]
)
def test_a_service_keeps_up_that_answers_nearly_all_that_is_due(
    due: int, answered: int, errors: int, keeps_up: bool
) -> None:
    changes: dict[str, Any] = {"unanswered": due - answered - errors, "errors": {"503": errors}}
    assert summary(measurement("rendered", round_(answered, of_sample=changes))).keeps_up is keeps_up


def test_nothing_due_is_not_keeping_up() -> None:
    assert not summary(measurement("rendered", round_(0))).keeps_up


def test_services_come_in_the_order_of_the_results() -> None:
    run = results()
    given: list[Measurement] = [measurement(name) for name in ("raw", "unknown", "naive", "raw")]
    assert services(run, given) == ["naive", "raw", "unknown"]


@pytest.fixture(scope="module")
def whole() -> Results:
    return fakes.whole_run()


def test_the_document_is_json_with_summaries_and_ratios(whole: Results) -> None:
    read = json.loads(json.dumps(document(whole), allow_nan=False))
    assert read["schema_version"] == 3
    assert read["quantiles"] == list(QUANTILES)
    assert len(read["measurements"]) == len(whole.measurements)
    for given, written in zip(whole.measurements, read["measurements"], strict=True):
        assert (written["service"], written["scenario"]) == (given.service, given.scenario)
        assert written["summary"]["requests_per_s"]["median"] > 0
        baselines = {"naive", "usual", "plain", "raw"}
        if given.section == "lanes":
            baselines = {"orm", "raw"}
        elif given.section == "crud":
            baselines = {"plain", "raw"}
        elif given.section == "caches":
            baselines = {"uncached", "raw"} if given.scenario == "user-popular" else {"uncached"}
        assert set(written["ratios"]) == baselines - {given.service}
    assert [(each["name"], each["median"], each["reached"]) for each in read["probes"]] == [
        ("middleware", 4.2, True),
        ("memory", 14.0, None),
        ("stampede", 1, False),
        ("edge", 23.0, True),
        ("reload", 8, False),
    ]
    cached = next(
        each
        for each in read["measurements"]
        if (each["section"], each["scenario"], each["service"]) == ("mixes", "read-mostly-cached", "rendered")
    )
    assert 90 < cached["ratios"]["naive"]["requests_per_s"]["median"] < 150
    assert cached["ratios"]["naive"]["cpu_us"]["median"] < 0.05
    assert cached["summary"]["answered"] == sum(each["sample"]["answered"] for each in cached["rounds"])


def test_the_document_cuts_digits_that_mean_nothing() -> None:
    noisy = measurement("rendered", round_(of_sample={"seconds": 10.123456789}, service_cores=0.123456789))
    run = document(results([noisy], settings={"ratio": 0.123456789}))
    [written] = run["measurements"]
    assert written["rounds"][0]["sample"]["seconds"] == 10.123
    assert written["rounds"][0]["service_cores"] == 0.12346
    assert written["summary"]["requests_per_s"]["median"] == 98.780
    assert run["settings"] == {"ratio": 0.123456789}


def test_the_document_of_a_run_without_answers() -> None:
    run = results([measurement("naive", round_(0)), measurement("rendered", round_(10)), measurement("raw")])
    written = json.loads(json.dumps(document(run), allow_nan=False))["measurements"][1]
    assert written["ratios"] == {
        "naive": {"requests_per_s": None, "cpu_us": None},
        "raw": {"requests_per_s": None, "cpu_us": None},
    }


def test_there_is_no_ratio_to_a_baseline_that_answered_nothing_in_a_round() -> None:
    naive = measurement("naive", round_(0), round_(5))
    rendered = measurement("rendered", round_(100), round_(100))

    assert ratio(rendered, naive) is None
    assert ratio(naive, naive) is None
    assert ratio(naive, rendered) is not None
