"""The command line of the benchmark."""

import argparse
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.harness import drivers
from benchmarks.harness.runner import Plan
from benchmarks.harness.scenarios import ENDPOINTS, MIXES
from benchmarks.harness.seeding import Size
from benchmarks.harness.services import SERVICES
from benchmarks.harness.ways import COMPARISONS, SUBJECT
from tests.rendering import ROOT

OPERATION = "operation"
# In under three minutes on two cores, making the rows included.
QUICK = Plan(
    endpoints=("user", "posts", "write"),
    mixes=("read-mostly", "read-mostly-cached"),
    comparisons=(),
    operations=False,
    sweep_of=(),
    open_loop_of=(),
    rounds=2,
    seconds=0.4,
)


@dataclass(frozen=True)
class Arguments:
    plan: Plan
    driver: drivers.Driver
    output: Path
    database_url: str | None
    cache_url: str | None


def parse(argv: Sequence[str]) -> Arguments:
    """Read the command line; ends the process with a message when something in it is wrong."""
    full = Plan()
    parser = argparse.ArgumentParser(
        prog="nox -s bench --", description="Measures the rendered service beside five others."
    )
    parser.add_argument(
        "--quick", action="store_true", help="some of the endpoints in short rounds: the picture, not the figures"
    )
    what = parser.add_argument_group("what (names are separated by commas)")
    what.add_argument("--services", type=some(SERVICES), help=f"of {text(SERVICES)} (default: all)")
    measured = (*ENDPOINTS, *MIXES)
    choice = (*measured, *COMPARISONS, OPERATION)
    what.add_argument(
        "--scenarios",
        type=some(choice),
        help=f"of {text(choice)}; the last ones compare ways of the rendered service to its database and to its "
        "caches, and measure its edge, starts and restarts (default: all)",
    )
    what.add_argument(
        "--sweep-of",
        type=some(measured),
        help=f"measured with several numbers of clients as well (default: {text(full.sweep_of)})",
    )
    what.add_argument(
        "--open-loop-of",
        type=some(measured),
        help=f"measured at a fixed rate as well (default: {text(full.open_loop_of)})",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--clients", type=at_least(1), help=f"connections at once (default: {full.clients})")
    how.add_argument("--sweep", type=counts, help=f"the several numbers of clients (default: {text(full.sweep)})")
    how.add_argument(
        "--workers",
        type=at_least(1),
        help="of all services but naive (default: one for endpoints, lanes and caches, as each kind runs in "
        "production for mixes)",
    )
    how.add_argument("--rounds", type=at_least(1), help=f"of each service in each scenario (default: {full.rounds})")
    how.add_argument("--seconds", type=positive, help=f"length of a round (default: {full.seconds:g})")
    how.add_argument("--rate", type=positive, help="requests per second (default: half of what plain can answer)")
    how.add_argument(
        "--client",
        choices=("auto", "own", "wrk"),
        default="auto",
        help="what drives the services: wrk (whole seconds only, and no fixed rate) or our own client "
        "(default: wrk where it is installed and can)",
    )
    where = parser.add_argument_group("where")
    where.add_argument("--database-url", help="an empty PostgreSQL database instead of the embedded server")
    where.add_argument("--cache-url", help="a Valkey or Redis instead of the embedded server")
    where.add_argument("--users", type=at_least(2_000), help=f"rows to make (default: {full.size.users})")
    where.add_argument("--posts", type=at_least(2_000), help=f"rows to make (default: {full.size.posts})")
    where.add_argument("--output", type=Path, default=ROOT / "benchmark-results", help="directory of the results")
    given = parser.parse_args(argv)

    plan = QUICK if given.quick else full
    changes = {
        name: getattr(given, name)
        for name in ("services", "sweep_of", "open_loop_of", "clients", "sweep", "workers", "rounds", "seconds")
        if getattr(given, name) is not None
    }
    if given.scenarios:
        changes["endpoints"] = tuple(name for name in given.scenarios if name in ENDPOINTS)
        changes["mixes"] = tuple(name for name in given.scenarios if name in MIXES)
        changes["comparisons"] = tuple(name for name in given.scenarios if name in COMPARISONS)
        changes["operations"] = OPERATION in given.scenarios
    size = Size(given.users or full.size.users, given.posts or full.size.posts)
    plan = replace(plan, rate_per_s=given.rate, size=size, **changes)
    for option, chosen in (("--sweep-of", given.sweep_of), ("--open-loop-of", given.open_loop_of)):
        if left_out := set(chosen or ()) - {*plan.endpoints, *plan.mixes}:
            parser.error(f"{option}: {text(left_out)} is not among --scenarios")
    compared = [name for name in given.scenarios or () if name in COMPARISONS or name == OPERATION]
    if compared and SUBJECT not in plan.services:
        parser.error(f"--scenarios: {text(compared)} are those of {SUBJECT}, which is not among --services")
    try:
        driver = drivers.choose(given.client, plan.seconds)
    except drivers.DriverError as error:
        parser.error(str(error))
    return Arguments(
        plan=plan,
        driver=driver,
        output=given.output,
        database_url=given.database_url,
        cache_url=given.cache_url,
    )


def text(values: Iterable[object]) -> str:
    return ",".join(map(str, values))


def some(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    """Names out of `known`, in the order of `known`."""

    def parse_names(value: str) -> tuple[str, ...]:
        names = {name.strip() for name in value.split(",") if name.strip()}
        if not names:
            raise argparse.ArgumentTypeError("no name is given")
        if unknown := sorted(names - set(known)):
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; choose from {', '.join(known)}")
        return tuple(name for name in known if name in names)

    return parse_names


def at_least(least: int) -> Callable[[str], int]:
    def parse_number(value: str) -> int:
        if not value.isdecimal() or int(value) < least:
            raise argparse.ArgumentTypeError(f"{value!r} is not a whole number of at least {least}")
        return int(value)

    return parse_number


def counts(value: str) -> tuple[int, ...]:
    return tuple(at_least(1)(number.strip()) for number in value.split(","))


def positive(value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{value!r} is not a number above 0")
    return number
