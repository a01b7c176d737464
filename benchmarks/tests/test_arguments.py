"""The command line: any part can be chosen by name, and a wrong name is answered with the right ones."""

import shutil

import pytest

from benchmarks.harness.arguments import parse
from benchmarks.harness.runner import Plan, expected_rounds, groups, two_digits
from benchmarks.harness.scenarios import ENDPOINTS, MIXES
from benchmarks.harness.ways import ARENA, CACHES, CRUD, LANES


def test_everything_is_measured_by_default() -> None:
    assert parse([]).plan == Plan()


def test_quick_is_a_fraction_of_the_whole() -> None:
    quick, whole = parse(["--quick"]).plan, parse([]).plan

    assert quick.services == whole.services
    assert set(quick.endpoints) < set(whole.endpoints)
    assert set(quick.mixes) < set(whole.mixes)
    assert expected_rounds(quick) * quick.seconds < 0.15 * expected_rounds(whole) * whole.seconds


def test_parts_are_chosen_by_name() -> None:
    chosen = ["--services", "raw,naive", "--scenarios", "write-heavy, user", "--workers", "2", "--clients", "7"]
    plan = parse([*chosen, "--rounds", "3", "--seconds", "0.25", "--sweep", "1,2", "--rate", "100"]).plan

    assert plan.services == ("naive", "raw")
    assert (plan.endpoints, plan.mixes, plan.comparisons) == (("user",), ("write-heavy",), ())
    assert (plan.workers, plan.clients, plan.rounds, plan.seconds) == (2, 7, 3, 0.25)
    assert (plan.sweep, plan.rate_per_s) == ((1, 2), 100)


def test_operation_is_a_part_of_every_run_but_the_quick_one() -> None:
    assert parse([]).plan.operations
    assert not parse(["--quick"]).plan.operations
    assert not parse(["--scenarios", "user"]).plan.operations
    alone = parse(["--quick", "--scenarios", "operation"]).plan
    assert alone.operations
    assert groups(alone) == []


def test_lanes_are_chosen_like_a_scenario() -> None:
    plan = parse(["--quick", "--scenarios", "lanes"]).plan

    assert (plan.endpoints, plan.mixes, plan.comparisons) == ((), (), ("lanes",))
    assert [(group.section, group.services) for group in groups(plan)] == [("lanes", ("rendered", "raw"))]
    assert list(plan.titles) == ["rendered", "raw", *LANES.ways]
    assert list(plan.scenarios) == list(LANES.of)
    # Two rounds of three or four lanes and of the limit beside them.
    assert expected_rounds(plan) == 2 * (4 + 5 + 4 + 5)


def test_caches_are_chosen_like_a_scenario() -> None:
    plan = parse(["--quick", "--scenarios", "caches", "--services", "rendered"]).plan

    assert (plan.endpoints, plan.mixes, plan.comparisons) == ((), (), ("caches",))
    assert [(group.section, group.cached, group.alone) for group in groups(plan)] == [("caches", True, True)]
    assert list(plan.titles) == ["rendered", *CACHES.ways]
    assert list(plan.scenarios) == ["user-popular", "user"]
    assert expected_rounds(plan) == 2 * (6 + 2)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--services", "fast"], "unknown: fast; choose from naive, usual, plain, plain-gc, rendered, raw"),
        (["--scenarios", "user,nonsense"], "unknown: nonsense; choose from health, user"),
        (["--services", ","], "no name is given"),
        (["--scenarios", "user", "--sweep-of", "write"], "--sweep-of: write is not among --scenarios"),
        (["--scenarios", "user-popular"], "unknown: user-popular; choose from health, user"),
        (["--scenarios", "lanes", "--services", "raw"], "lanes are those of rendered, which is not among --services"),
        (["--scenarios", "lanes,caches", "--services", "raw"], "lanes,caches are those of rendered"),
        (["--clients", "0"], "'0' is not a whole number of at least 1"),
        (["--seconds", "-1"], "'-1' is not a number above 0"),
        (["--rate", "nan"], "'nan' is not a number above 0"),
        (["--sweep", "1,x"], "'x' is not a whole number of at least 1"),
        (["--posts", "5"], "'5' is not a whole number of at least 2000"),
    ],
)
def test_mistakes_are_named(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parse(argv)
    assert message in capsys.readouterr().err


def test_a_client_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(SystemExit, match="2"):
        parse(["--client", "wrk"])
    assert "wrk" in capsys.readouterr().err


def test_endpoints_are_measured_alone_and_mixes_as_in_production_caches_apart() -> None:
    found = [(group.section, group.scenarios, group.cached, group.alone) for group in groups(Plan())]

    assert found == [
        ("endpoints", tuple(ENDPOINTS), False, True),
        ("lanes", tuple(LANES.of), False, True),
        ("caches", tuple(CACHES.of), True, True),
        ("crud", tuple(CRUD.of), True, True),
        ("arena", tuple(ARENA.of), False, True),
        ("mixes", tuple(name for name in MIXES if not MIXES[name].cached), False, False),
        ("mixes", tuple(name for name in MIXES if MIXES[name].cached), True, False),
    ]
    assert groups(Plan(endpoints=(), mixes=(), comparisons=())) == []
    assert groups(Plan(endpoints=(), mixes=(), services=("raw", "plain"))) == []


def test_expected_rounds() -> None:
    plan = Plan(services=("raw", "plain"), endpoints=("user",), mixes=("read-mostly",), rounds=3, sweep=(1, 4))

    # Two scenarios of three rounds; two sweeps and one open loop of two.
    assert expected_rounds(plan) == 2 * (2 * 3 + 3 * 2)


@pytest.mark.parametrize(
    ("number", "rounded"), [(1234.0, 1200.0), (1250.1, 1300.0), (99.6, 100.0), (7.26, 7.3), (0.3, 1.0), (1.0, 1.0)]
)
def test_two_digits(number: float, rounded: float) -> None:
    assert two_digits(number) == pytest.approx(rounded)
