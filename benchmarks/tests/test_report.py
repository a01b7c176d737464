"""The report as a reader sees it: its tables are read back."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.harness.goals import GOALS, Goal, verdicts
from benchmarks.harness.report import SHORT, markdown, megabytes, plain, share, short, times
from benchmarks.harness.results import QUANTILES, Measurement, Probe, Results, Round
from benchmarks.harness.scenarios import ENDPOINTS, MIXES
from benchmarks.harness.summary import Spread
from benchmarks.tests import fakes
from benchmarks.tests.fakes import PROBES, measurement, results, round_


def part(text: str, heading: str) -> str:
    """What is below a heading, up to the next of any level."""
    assert f"\n{heading}" in text, f"{heading} is missing"
    return text.split(f"\n{heading}", 1)[1].split("\n#", 1)[0]


def table(text: str) -> list[dict[str, str]]:
    """The rows of the only table in `text`, by header."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    headers, rule, *rows = lines
    assert all(len(row) == len(headers) for row in lines)
    assert set("".join(rule)) <= set("-:")
    return [dict(zip(headers, row, strict=True)) for row in rows]


@pytest.fixture(scope="module")
def whole() -> str:
    return markdown(fakes.whole_run())


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (plain, 0, "0"),
        (plain, 0.7612, "0.76"),
        (plain, 9.996, "10.0"),
        (plain, 43.21, "43.2"),
        (plain, 99.96, "100"),
        (plain, 12345.6, "12,346"),
        (times, 0.53, "0.53x"),
        (times, 0.997, "1.0x"),
        (times, 2.44, "2.4x"),
        (times, 9.96, "10x"),
        (times, 1234.5, "1,234x"),
        (share, 0.0049, "0.5 %"),
        (share, 0.0996, "10 %"),
        (share, 0.947, "95 %"),
        (megabytes, 123_456_789, "123"),
    ],
)
def test_numbers(form: Callable[[float], str], value: float, text: str) -> None:
    assert form(value) == text


def test_the_header_says_what_was_run_where(whole: str) -> None:
    header = whole.split("## ", 1)[0]
    for text in ("Fake CPU", "cores: 2", "pinned: yes", "python: 3.13.0", "Client: wrk 4.2", "pool_clients: 40"):
        assert text in header
    assert "took 25.0 minutes; complete." in header


def test_the_header_of_an_interrupted_run_with_disturbed_rounds() -> None:
    disturbed = measurement("naive", round_(), round_(disturbed=True), discarded=3)
    header = markdown(results([disturbed], complete=False, settings={})).split("## ", 1)[0]
    assert "interrupted" in header
    assert "complete." not in header
    assert "took CPU time: 3; kept in spite of that: 1" in header
    assert "Client: not recorded" in header


def test_the_whole_picture_has_a_row_a_scenario_and_a_column_a_service(whole: str) -> None:
    rows = table(part(whole, "## The whole picture"))
    assert list(rows[0]) == ["scenario", "clients", "naive", "usual", "plain", "rendered", "raw"]
    assert [row["scenario"] for row in rows] == [*MIXES, *ENDPOINTS]
    assert all(row["naive"].endswith("(1.0x)") for row in rows)


def test_the_whole_picture_says_requests_and_ratio_for_rounds_of_the_same_number() -> None:
    run = results(
        [
            measurement("naive", round_(2_000), round_(1_000), round_(500), cached=False),
            measurement("rendered", round_(40_000), round_(30_000), round_(30_000), cached=True),
        ]
    )
    [row] = table(part(markdown(run), "## The whole picture"))
    assert row["naive"] == "100 (1.0x)"
    assert row["rendered"] == "3,000 (30x)"


def test_services_with_several_numbers_of_workers_are_told_apart() -> None:
    run = results([measurement("rendered", round_(1_000 * workers), workers=workers) for workers in (1, 2)])
    [row] = table(part(markdown(run), "## The whole picture"))
    assert row["rendered"] == "1 workers: 100<br>2 workers: 200"


def test_details() -> None:
    naive = measurement("naive", round_(100), round_(110), round_(90))
    usual = measurement("usual", *[round_(400)] * 3)
    busy = round_(2_000, of_sample={"p50_ms": 4.0}, memory_bytes=61_400_000)
    rendered = measurement("rendered", busy, busy, busy, response_bytes=1_234)
    raw, bar = measurement("raw", *[round_(2_500)] * 3), measurement("plain", *[round_(2_000)] * 3)
    text = markdown(results([raw, rendered, naive, usual, bar]))
    rows = {row["service"]: row for row in table(part(text, "### user: one user by key (40 clients)"))}
    assert list(rows) == ["naive", "usual", "plain", "rendered", "raw"]
    assert rows["naive"]["requests/s (low-high)"] == "10.0 (9.00-11.0)"
    assert rows["rendered"] == {
        "service": "rendered",
        "workers": "1",
        "requests/s (low-high)": "200",
        "of naive": "20x",
        "of usual": "5.0x",
        "of raw": "80 %",
        "of plain": "100 %",
        "CPU us/request": "4,850",
        "p50 ms": "4.00",
        "p95 ms": rows["rendered"]["p95 ms"],
        "p99 ms": rows["rendered"]["p99 ms"],
        "errors": "0",
        "memory MB": "61",
        "bytes/answer": "1,234",
    }
    assert 4 < float(rows["rendered"]["p95 ms"]) < float(rows["rendered"]["p99 ms"]) < 13


def test_columns_that_say_nothing_are_left_out(whole: str) -> None:
    assert "bytes/answer" not in table(part(whole, "### read-mostly-cached"))[0]
    assert "bytes/answer" in table(part(whole, "### posts-deep"))[0]
    [row] = table(part(markdown(results([measurement("usual", round_())])), "### user"))
    assert not {"of naive", "of raw", "of plain"} & set(row)


@pytest.mark.parametrize(
    ("heading", "way", "speeds_of"),
    [
        ("## Lanes", "lane", fakes.LANE_SPEEDS),
        ("## Caches", "way", fakes.CACHE_SPEEDS),
        ("## HttpArena's crud", "service", fakes.CRUD_SPEEDS),
        ("## HttpArena's api-4, async-db and json", "service", fakes.ARENA_SPEEDS),
    ],
)
def test_each_comparison_is_one_table(whole: str, heading: str, way: str, speeds_of: dict[str, dict[str, int]]) -> None:
    rows = table(part(whole, heading))
    assert [(row["scenario"], row[way]) for row in rows] == [
        (scenario, name) for scenario, speeds in speeds_of.items() for name in speeds
    ]
    assert "with 40 clients" in part(whole, heading)


def test_a_way_to_a_cache_is_compared_with_none(whole: str) -> None:
    rows = {(row["scenario"], row["way"]): row for row in table(part(whole, "## Caches"))}
    assert rows["user-popular", "uncached"]["of uncached"] == "1.0x"
    assert rows["user-popular", "local"]["of uncached"].startswith("3.")
    assert rows["user-popular", "raw"]["of raw"] == "100 %"
    assert rows["user", "miss"]["of raw"] == "-"


def test_probes_are_one_table_with_their_goals(whole: str) -> None:
    middleware, memory, stampede = table(part(whole, "## The cache, probed"))
    assert middleware["median (low-high)"] == "4.20 (3.90-14.4)"
    assert (middleware["unit"], middleware["goal"], middleware[""]) == ("us", "at most 10", "reached")
    assert (memory["goal"], memory[""]) == ("-", "")
    # The median reaches it, but not each of them.
    assert (stampede["goal"], stampede[""]) == ("at most 1, always", "**missed**")
    edge, lost = table(part(whole, "## Operation"))
    assert (edge["goal"], edge[""], lost["goal"], lost[""]) == ("at most 25", "reached", "at most 0", "**missed**")
    without = markdown(results([measurement("rendered", round_())]))
    assert "probed" not in without
    assert "## Operation" not in without


def test_a_probe_without_values_has_no_verdict() -> None:
    [row] = table(part(markdown(results(probes=[Probe("memory", "of nothing", "MB", (), 1)])), "## The cache, probed"))
    assert (row["median (low-high)"], row[""]) == ("-", "")


def test_a_lane_is_compared_with_the_orm_and_the_limit_in_its_own_scenario() -> None:
    def lane(name: str, answered: int, scenario: str = "user") -> Measurement:
        made = round_(answered, of_sample={"p50_ms": 4.0})
        return measurement(name, made, made, section="lanes", scenario=scenario)

    run = results([lane("orm", 500), lane("prepared", 2_000), lane("raw", 4_000), lane("orm", 1, "write")])
    _, prepared, _, other = table(part(markdown(run), "## Lanes"))
    assert prepared == {
        "scenario": "user",
        "lane": "prepared",
        "requests/s (low-high)": "200",
        "of orm": "4.0x",
        "of raw": "50 %",
        "CPU us/request": "4,850",
        "p50 ms": "4.00",
        "p95 ms": prepared["p95 ms"],
        "p99 ms": prepared["p99 ms"],
        "errors": "0",
    }
    assert (other["of orm"], other["of raw"]) == ("1.0x", "-")


def test_without_lanes_there_is_no_table_of_them_and_lanes_alone_are_the_whole_picture() -> None:
    assert "## Lanes" not in markdown(results([measurement("rendered", round_())]))
    lanes = markdown(results([measurement("orm", round_(disturbed=True), section="lanes")]))
    assert table(part(lanes, "## Lanes"))[0]["requests/s (low-high)"] == "100 †"
    assert "other processes" in part(lanes, "## Lanes")
    assert "## The whole picture" not in lanes


def test_numbers_of_clients_are_rows(whole: str) -> None:
    rows = table(part(whole.split("## Numbers of clients", 1)[1], "### user"))
    assert [row["clients"] for row in rows if row["service"] == "rendered"] == ["1", "4", "16", "40", "160"]


@pytest.mark.parametrize(
    ("round_made", "sign", "words"),
    [
        (round_(disturbed=True), "†", "other processes"),
        (round_(of_sample={"errors": {"503": 1}}), "ᵉ", "failed"),
        (round_(of_sample={"client_cores": 0.95}), "ᶜ", "the client was the limit"),
        (round_(service_cores=0.4, database_cores=0.9), "ᵈ", "the database was the limit"),
        (round_(service_cores=0.4, database_cores=0.6), "ᵏ", "used up the cores beside"),
        (round_(service_cores=0.4, database_cores=0.2), "ʷ", "had time left"),
    ],
)
def test_figures_that_are_not_the_services_own_are_marked(round_made: Round, sign: str, words: str) -> None:
    text = markdown(results([measurement("naive", round_()), measurement("rendered", round_made)]))
    picture, details = part(text, "## The whole picture"), part(text, "### user")
    assert table(picture)[0]["rendered"] == f"100 {sign} (1.0x)"
    assert table(picture)[0]["naive"] == "100 (1.0x)"
    assert [row["requests/s (low-high)"] for row in table(details)] == ["100", f"100 {sign}"]
    for section in (picture, details):
        [footnote] = [line for line in section.splitlines() if line.startswith(sign)]
        assert words in footnote


def test_nothing_is_explained_that_is_not_marked() -> None:
    text = markdown(results([measurement("naive", round_())]))
    assert not any(sign in text for sign in "†ᵉᶜᵈᵏʷ")


def test_errors_are_named() -> None:
    failing = round_(of_sample={"errors": {"timeout": 2, "503": 1_000}})
    [row] = table(part(markdown(results([measurement("naive", failing, failing)])), "### user"))
    assert row["errors"] == "2,004 (503: 2,000, timeout: 4)"


def goal_rows(run: Results) -> dict[tuple[str, str], dict[str, str]]:
    rows = table(part(markdown(run), "## Goals"))
    return {(row["scenario"], row["figure of rendered"]): row for row in rows}


def test_each_goal_is_judged(whole: str) -> None:
    rows = table(part(whole, "## Goals"))
    probes = [each for each in PROBES if each.at_most is not None]
    assert len(rows) == len(GOALS) + len(probes) == 29 + 4
    assert [row[""] for row in rows[-2:]] == ["reached", "**missed**"]
    assert rows[-1]["figure of rendered"] == "lost requests, requests"
    verdicts_by_goal = {(row["scenario"], row["figure of rendered"]): row[""] for row in rows}
    assert verdicts_by_goal["read-mostly-cached", "requests/s against naive"] == "reached"
    assert verdicts_by_goal["the slowest endpoint", "requests/s against plain"] == "**missed**"
    assert verdicts_by_goal["crud", "requests/s of memory against plain"] == "reached"
    assert verdicts_by_goal["crud", "requests/s of valkey against plain"] == "**missed**"
    assert verdicts_by_goal["user", "CPU time of a request of miss against uncached"] == "**missed**"
    assert "not measured" not in verdicts_by_goal.values()


@pytest.mark.parametrize(
    ("goal", "mine", "other", "state", "figures"),
    [
        (Goal("mixes", "read-mostly", "requests", 25, "naive"), 25_000, 1_000, "reached", "25x"),
        (Goal("mixes", "read-mostly", "requests", 25, "naive"), 24_990, 1_000, "**missed**", "24.99x"),
        (Goal("mixes", "read-mostly-cached", "requests", 0.7, "raw"), 7_000, 10_000, "reached", "70 %"),
        (Goal("mixes", "read-mostly-cached", "requests", 0.7, "raw"), 6_996, 10_000, "**missed**", "69.96 %"),
        (Goal("endpoints", "user", "requests", 0.6, "raw", workers=1), 6_100, 10_000, "reached", "61 %"),
    ],
)
def test_goals_for_requests(goal: Goal, mine: int, other: int, state: str, figures: str) -> None:
    assert goal in GOALS
    load: dict[str, Any] = {"section": goal.section, "scenario": goal.scenario}
    run = results([measurement("rendered", round_(mine), **load), measurement(goal.against, round_(other), **load)])
    [verdict] = verdicts(goal, run)
    assert verdict.text == state
    row = next(row for row in table(part(markdown(run), "## Goals")) if row[""] == state)
    assert (row["measured (low-high)"], row[""], row["remarks"]) == (figures, state, "")


@pytest.mark.parametrize(("p95_ms", "state", "figures"), [(2.0, "reached", "1/40"), (4.0, "**missed**", "1/20")])
def test_the_goal_for_latency(p95_ms: float, state: str, figures: str) -> None:
    def only_p95(value: float) -> tuple[float, ...]:
        return tuple(value if quantile == 0.95 else 1.0 for quantile in QUANTILES)

    load: dict[str, Any] = {"section": "mixes", "scenario": "read-mostly-cached"}
    mine = measurement("rendered", round_(of_sample={"latencies_ms": only_p95(p95_ms)}), **load)
    naive = measurement("naive", round_(of_sample={"latencies_ms": only_p95(80.0)}), **load)
    row = goal_rows(results([mine, naive]))["read-mostly-cached", "p95 against naive"]
    assert (row["goal"], row["measured (low-high)"], row[""]) == ("at most 1/30", figures, state)


@pytest.mark.parametrize(("tail", "state"), [(1.9, "reached"), (2.2, "**missed**")])
def test_the_goal_for_the_tail_is_judged_where_clients_are_four_times_the_connections(tail: float, state: str) -> None:
    run = results(
        [
            measurement("rendered", round_(of_sample={"tail": tail}), scenario="posts", clients=40),
            measurement("rendered", round_(of_sample={"tail": 9.0}), scenario="posts", clients=160),
            measurement("rendered", round_(of_sample={"tail": 9.0}), scenario="posts", clients=40, workers=2),
            measurement("rendered", round_(of_sample={"tail": 9.0}), scenario="users", clients=40),
            measurement("raw", round_(of_sample={"tail": 9.0}), scenario="posts", clients=40),
        ]
    )
    goal = Goal("endpoints", "posts", "tail", 2, workers=1)
    assert goal in GOALS
    [verdict] = verdicts(goal, run)
    assert verdict.text == state
    assert verdicts(goal, replace(run, settings={}))[0].text == "not measured"


def test_every_endpoint_that_takes_a_connection_has_a_goal_for_its_tail() -> None:
    assert {goal.scenario for goal in GOALS if goal.figure == "tail"} == {*ENDPOINTS} - {"health"}


@pytest.mark.parametrize(
    "spoilt",
    [
        {"workers": 2},
        {"cached": True},
        {"section": "mixes"},
        {"service": "usual"},
        {"rounds": ()},
    ],
)
def test_a_goal_is_not_judged_by_another_measurement(spoilt: dict[str, Any]) -> None:
    goal = Goal("endpoints", "user", "requests", 0.6, "raw", workers=1)
    assert goal in GOALS
    mine, raw = measurement("rendered", round_(900)), measurement("raw", round_(1_000))
    assert verdicts(goal, results([mine, raw]))[0].text == "reached"
    assert verdicts(goal, results([replace(mine, **spoilt), raw]))[0].text == "not measured"
    assert verdicts(goal, results([mine]))[0].text == "not measured"


def test_goals_for_one_worker_need_an_opponent_with_one_worker() -> None:
    goal = Goal("endpoints", "user", "requests", 0.6, "raw", workers=1)
    run = results([measurement("rendered", round_(900)), measurement("raw", round_(1_000), workers=2)])
    assert verdicts(goal, run)[0].text == "not measured"


def test_without_the_service_that_has_goals_there_is_no_table_of_them() -> None:
    goals = part(markdown(results([measurement("raw", round_())])), "## Goals")
    assert "Not measured" in goals
    assert "|" not in goals


def test_a_way_alone_is_judged_without_its_service() -> None:
    load: dict[str, Any] = {"section": "crud", "scenario": "crud", "cached": True}
    run = results([measurement("plain", round_(10), **load), measurement("memory", round_(11), **load)])
    assert goal_rows(run)["crud", "requests/s of memory against plain"][""] == "reached"


def test_what_makes_a_verdict_doubtful_is_said() -> None:
    load: dict[str, Any] = {"section": "mixes", "scenario": "read-mostly-cached"}
    mine = measurement(
        "rendered", round_(120_000, of_sample={"errors": {"503": 3}}), round_(disturbed=True), workers=2, **load
    )
    naive = measurement("naive", round_(1_000, service_cores=0.2), round_(10, service_cores=0.2), **load)
    row = goal_rows(results([mine, naive]))["read-mostly-cached", "requests/s against naive"]
    assert row["measured (low-high)"] == "110x (100x-120x)"
    assert row["remarks"] == (
        "rendered: errors 3 (503: 3); rendered: 1 of 2 rounds disturbed; naive: waiting was the limit; "
        "workers: 2 against 1"
    )


def test_endpoints_are_judged_by_the_slowest_and_by_their_median() -> None:
    ratios = {"user": 1_300, "posts": 900, "write": 1_200}
    run = results(
        [
            measurement(service, round_(speed), scenario=name)
            for name, mine in ratios.items()
            for service, speed in (("plain", 1_000), ("rendered", mine))
        ]
    )
    rows = goal_rows(run)
    slowest = rows["the slowest endpoint", "requests/s against plain"]
    assert (slowest["goal"], slowest["measured (low-high)"], slowest[""]) == ("at least 1x", "0.9x", "**missed**")
    assert slowest["remarks"] == "posts"
    middle = rows["the median of endpoints", "requests/s against plain"]
    assert (middle["measured (low-high)"], middle[""]) == ("1.2x (0.9x-1.3x)", "reached")
    assert middle["remarks"] == "3 endpoints, from the slowest to the fastest"


@pytest.mark.parametrize(("p99", "state"), [(0.5, "reached"), (0.7, "**missed**")])
def test_the_tail_of_a_way_is_judged_against_another_service(p99: float, state: str) -> None:
    def only_p99(value: float) -> tuple[float, ...]:
        return tuple(value if quantile == 0.99 else 1.0 for quantile in QUANTILES)

    load: dict[str, Any] = {"section": "crud", "scenario": "crud", "cached": True}
    mine = measurement("memory", round_(of_sample={"latencies_ms": only_p99(40 * p99)}), **load)
    bar = measurement("plain", round_(of_sample={"latencies_ms": only_p99(40.0)}), **load)
    goal = Goal("crud", "crud", "p99", 0.6, "plain", service="memory")
    assert goal in GOALS
    [verdict] = verdicts(goal, results([mine, bar]))
    assert (verdict.text, verdict.value) == (state, Spread(p99, p99, p99))


def test_the_cost_of_a_miss_is_that_of_its_cpu_time() -> None:
    load: dict[str, Any] = {"section": "caches", "cached": True}
    miss = measurement("miss", round_(1_000, service_cores=0.9), **load)
    uncached = measurement("uncached", round_(1_250, service_cores=0.9), **load)
    goal = Goal("caches", "user", "cpu", 1.15, "uncached", service="miss")
    assert goal in GOALS
    [verdict] = verdicts(goal, results([miss, uncached]))
    assert verdict.value
    assert verdict.text == "**missed**"
    assert verdict.value.median == pytest.approx(1.25)


def test_the_short_part_has_a_row_a_service_and_names_what_is_missed(whole: str) -> None:
    text = whole.split(SHORT[0], 1)[1].split(SHORT[1], 1)[0]
    rows = {row["compared with"]: list(row.values())[1:] for row in table(text)}
    assert list(rows) == [
        "the naive service",
        "the usual service",
        "FastAPI and asyncpg by hand",
        "bare ASGI, the limit",
    ]
    by_hand = rows["FastAPI and asyncpg by hand"]
    assert re.fullmatch(r"0\.\d\dx, 1\.\d\dx, 1\.\d\dx", by_hand[3])
    assert re.fullmatch(r"1\.\d\dx, 1\.\d\dx, 1\.\d\dx", by_hand[4])
    assert re.fullmatch(r"0\.\d\dx to \d\.\d\dx \(0\.\d\dx\)", by_hand[5])
    assert rows["the naive service"][3] == "-"
    assert rows["the naive service"][4].startswith("2")
    assert "A hit in the worker's own cache is 3." in text
    assert re.search(
        r"^\d+ of 33 goals are reached; missed: the slowest endpoint, requests/s against plain", text, re.M
    )


def test_the_short_part_leaves_out_what_was_not_measured() -> None:
    load: dict[str, Any] = {"section": "mixes", "scenario": "write-heavy"}
    text = short(results([measurement("plain", round_(10), **load), measurement("rendered", round_(12), **load)]))
    assert table(text) == [{"compared with": "FastAPI and asyncpg by hand", "half writes, caches on": "1.20x"}]
    assert "1 of 1 goals are reached." in text
    assert short(results([measurement("rendered", round_(12), **load)])) == ""


def test_services_that_cannot_keep_up_are_named() -> None:
    load: dict[str, Any] = {"section": "open_loop", "scenario": "read-mostly", "rate_per_s": 640.0}
    slow = measurement("naive", round_(800, of_sample={"unanswered": 5_600}), **load)
    fast = measurement("rendered", round_(6_400, of_sample={"p50_ms": 2.0}), **load)
    rows = table(part(markdown(results([fast, slow])), "## Latency at a fixed rate"))
    by_service = {row["service"]: row for row in rows}
    assert list(by_service) == ["naive", "rendered"]
    assert by_service["naive"]["keeps up"] == "**cannot keep up**: 12 % answered"
    assert (by_service["naive"]["unanswered"], by_service["naive"]["answered/s"]) == ("5,600", "80.0")
    assert by_service["rendered"]["keeps up"] == "yes"
    assert (by_service["rendered"]["due/s"], by_service["rendered"]["p50 ms"]) == ("640", "2.00")


def test_the_notes_say_what_each_service_leaves_out(whole: str) -> None:
    notes = part(whole, "## Notes")
    for name, text in fakes.SERVICES.items():
        assert f"- **{name}**: {text}" in notes


def test_pipes_do_not_break_tables() -> None:
    text = markdown(results([measurement("a|b", round_())]))
    assert "| a\\|b |" in text


PARTIAL: dict[str, list[Measurement]] = {
    "nothing": [],
    "without rounds": [measurement("naive"), measurement("rendered")],
    "without requests": [measurement(name, round_(0)) for name in fakes.SERVICES],
    "one service": [each for each in fakes.whole_run().measurements if each.service == "rendered"],
    "one scenario": [each for each in fakes.whole_run().measurements if each.scenario == "read-mostly"],
    "one without answers": [measurement("naive", round_(0)), measurement("rendered", round_(500))],
    "fewer rounds": [measurement("naive", round_(1)), measurement("rendered", round_(5), round_(6))],
    "an open loop without answers": [
        measurement("rendered", round_(0), section="open_loop", rate_per_s=10.0),
        measurement("naive", section="open_loop", rate_per_s=10.0),
    ],
    "clients without answers": [measurement("rendered", round_(0), section="clients")],
    "an unknown service": [measurement("other", round_())],
}


@pytest.mark.parametrize("name", PARTIAL)
def test_partial_results(name: str) -> None:
    run = results(PARTIAL[name], complete=False, machine={}, versions={}, services={}, scenarios={})
    text = markdown(run)
    assert "Machine: not recorded" in text
    assert not re.findall(r"\b(?:nan|inf|None|\w*Error)\b", text)
    for section in text.split("\n#"):
        if "\n|" in section:
            table(section)
    # What was not measured is neither reached nor missed; a tail is compared with nobody else's.
    if "rendered" not in {each.service for each in PARTIAL[name]} or len(PARTIAL[name]) < 3:
        assert not [line for line in text.splitlines() if "missed" in line and "p99 / p50" not in line]


def test_a_service_without_answers_shows_as_nothing_and_not_as_a_ratio() -> None:
    text = markdown(results([measurement("naive", round_(0)), measurement("rendered", round_(500))]))
    [row] = table(part(text, "## The whole picture"))
    assert (row["naive"], row["rendered"]) == ("0", "50.0")
    rows = table(part(text, "### user"))
    assert [row["CPU us/request"] for row in rows] == ["-", "19,400"]


def test_a_verdict_without_a_value_is_none() -> None:
    for goal in GOALS:
        [verdict] = verdicts(goal, results())
        assert verdict.value is None
        assert verdict.text == "not measured"
    assert replace(verdict, value=Spread(2.0, 1.0, 3.0)).text == "reached"
