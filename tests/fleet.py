"""Update a fleet of services, each with work of its own, from earlier versions to the present one.

`nox -s fleet` runs it: 20 services over the variants, updated in parallel, and then their own suites. It prints a
table. It fails if an edit is lost, if a conflict appears although a team wrote only at extension points, or if a suite
fails. The same seed makes the same fleet.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from tests.edits import BLOCKS, Domain, files, grow, lost, mark, team_owned, template_owned
from tests.environments import run_uv
from tests.history import CHOSEN, CONTESTED, OLDEST, VERSIONS, answers_at, make_history
from tests.rendering import commit, render, snapshot
from tests.type_cache import keep, lend
from tests.updates import conflicts, listed, table, upgrade
from tests.variants import VARIANTS

# The domains of the teams: the name of the package, and of one item.
NOUNS = ("invoice", "order", "parcel", "ticket", "voucher", "printer", "tenant", "device", "lesson", "recipe")
SUITE_TIMEOUT_S = 900
# The guards over a team's code. Internals run in the sessions `variant`; an update leaves core equal to a fresh copy
# (tests/test_update.py).
GUARDS = ("tests/core",)


class Suite(StrEnum):
    """Which of a service's own checks run after its update; short are lint, types and the tests of its code."""

    NONE = "none"
    SHORT = "short"
    FULL = "full"


@dataclass(frozen=True)
class Member:
    """One service of the fleet, before it exists."""

    name: str
    variant: str
    version: str
    domain: Domain
    # How many files of the template's its team has put a line into.
    edits_in_ours: int
    seed: int


@dataclass(frozen=True)
class Result:
    member: Member
    conflicts: frozenset[str] = frozenset()
    deletions: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    error: str = ""
    suite: str = "-"
    output: str = field(default="", repr=False)
    seconds: float = 0.0


def members(count: int, seed: int, variants: Sequence[str] = tuple(VARIANTS)) -> list[Member]:
    """Return the services of a fleet: the variants in turn, the oldest version first, each with a domain of its own."""
    choose = random.Random(seed)  # noqa: S311 - it decides about tests
    made = []
    for number in range(count):
        noun = NOUNS[number % len(NOUNS)]
        blocks = tuple(sorted(choose.sample(sorted(BLOCKS), choose.randint(0, len(BLOCKS)))))
        made.append(
            Member(
                name=f"{noun}s-{number + 1}",
                variant=variants[number % len(variants)],
                # The first of each variant crosses everything.
                version=OLDEST if number < len(variants) else choose.choice(VERSIONS[:-1]),
                domain=Domain(f"{noun}s", noun, blocks),
                edits_in_ours=choose.randint(0, 5),
                seed=choose.randrange(2**32),
            )
        )
    return made


def added_lines(before: Mapping[str, str], after: Mapping[str, str]) -> set[str]:
    """Return the lines that only `after` has, by their text."""
    return {
        line.strip()
        for path, text in after.items()
        for line in set(text.splitlines()) - set(before.get(path, "").splitlines())
        if line.strip()
    }


def problems(results: Iterable[Result]) -> list[str]:
    """Yield one sentence for each failure."""
    found = []
    for result in results:
        name = result.member.name
        if result.error:
            found.append(f"{name}: the update failed: {result.error}")
        if result.lost:
            found.append(f"{name}: lost without a word: {', '.join(sorted(result.lost))}")
        if result.conflicts:
            found.append(f"{name}: conflicts in {', '.join(sorted(result.conflicts))}")
        if result.suite == "red":
            found.append(f"{name}: its suite is red:\n{tail(result.output)}")
    return found


def tail(output: str, lines: int = 30) -> str:
    return "\n".join(f"    {line}" for line in output.splitlines()[-lines:])


def report(results: Sequence[Result]) -> str:
    """Return the table of the fleet."""
    heads = ("variant", "from", "updated", "conflicts", "deletions", "lost", "suite", "seconds")
    rows = {
        result.member.name: (
            result.member.variant,
            result.member.version,
            "no" if result.error else "yes",
            len(result.conflicts),
            len(result.deletions),
            len(result.lost),
            result.suite,
            f"{result.seconds:.0f}",
        )
        for result in results
    }
    return table("service", rows, heads)


def start(history: Path, service: Path, member: Member) -> dict[str, str]:
    """Render the service at its version and let its team work; returns the edits, by text, with their paths."""
    render(history, service, answers_at(member.version, VARIANTS[member.variant]), member.version)
    commit(service, "Start from the template")
    before = template_owned(service)
    grow(service, member.domain)
    edits = dict.fromkeys(added_lines(before, template_owned(service)), "")
    edits |= mark(service, team_owned(service), ends=("top",))
    ours = sorted(
        path
        for path, text in before.items()
        if text
        and path not in CONTESTED
        and not CHOSEN.fullmatch(path)
        and path.startswith(("app/core/", "dev/", "tests/core/"))
    )
    edits |= mark(service, random.Random(member.seed).sample(ours, member.edits_in_ours), ends=("top",))  # noqa: S311
    commit(service, "A year of work")
    return edits


def renew(history: Path, service: Path, member: Member, suite: Suite) -> Result:
    """Start a service, update it, compare, and run its suite."""
    started = time.monotonic()
    edits = start(history, service, member)
    team = team_owned(service)
    try:
        upgrade(service, VARIANTS[member.variant])
    except Exception as error:
        return Result(member, error=f"{type(error).__name__}: {error}", seconds=time.monotonic() - started)
    after = files(service)
    found, deleted = conflicts(service), listed(service, "D")
    # The update lists deleted files, with the command that restores them.
    missing = {text for text in lost(service, edits) if edits[text] not in deleted}
    missing |= {path for path, text in team.items() if after.get(path) != text}
    commit(service, "Update")
    green, output = run_suite(service, suite)
    return Result(
        member,
        conflicts=frozenset(found),
        deletions=frozenset(deleted),
        lost=frozenset(missing),
        suite="-" if suite is Suite.NONE else "green" if green else "red",
        output=output,
        seconds=time.monotonic() - started,
    )


def commands(suite: Suite, domains: Iterable[str]) -> list[list[str]]:
    """Return the commands of uv for these checks; `domains` are the directories of tests beside core's."""
    if suite is Suite.NONE:
        return []
    sync = ["sync", "--quiet"]
    if suite is Suite.FULL:
        return [sync, ["run", "nox"]]
    tests = [f"tests/{domain}" for domain in sorted(domains)]
    return [sync, ["run", "nox", "--session", "lint", "types"], ["run", "pytest", *tests, *GUARDS]]


def run_suite(service: Path, suite: Suite) -> tuple[bool, str]:
    """Run the service's own checks; return whether all passed, and their output."""
    output = ""
    domains = {path.parent.name for path in service.glob("tests/*/__init__.py")} - {"core"}
    for command in commands(suite, domains):
        process = run_uv(service, *command, timeout_s=SUITE_TIMEOUT_S)
        output += process.stdout + process.stderr
        if process.returncode:
            return False, output
        if "sync" in command:
            lend(service)
    keep(service)
    return True, output


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="nox -s fleet --", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("count", nargs="?", type=int, default=20, help="how many services (default: 20)")
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="of these variants (default: all)"
    )
    parser.add_argument(
        "--suites", choices=list(Suite), type=Suite, default=Suite.FULL, help="which of their checks run"
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, help="how many at once (default: one per core)"
    )
    parser.add_argument("--seed", type=int, default=0, help="another number makes another fleet")
    parser.add_argument("--keep", type=Path, help="a new directory in which the services stay")
    options = parser.parse_args(arguments)
    if options.count < 1 or options.jobs < 1:
        parser.error("at least one service, and one at once")
    if options.keep and options.keep.exists():
        parser.error(f"{options.keep} exists: name a new directory")
    if options.jobs > 1:
        # The cores are taken: each suite runs in one process.
        os.environ.setdefault("PYTEST_XDIST_AUTO_NUM_WORKERS", "1")
    home = options.keep or Path(tempfile.mkdtemp(prefix="fleet-"))
    try:
        results = run(
            home.absolute(), members(options.count, options.seed, options.variants), options.suites, options.jobs
        )
    finally:
        if not options.keep:
            shutil.rmtree(home, ignore_errors=True)
    print(f"\n{report(results)}")
    wrong = problems(results)
    print("\n".join(["", *wrong] if wrong else ["", f"Services that are current, with nothing lost: {len(results)}."]))
    return 1 if wrong else 0


def be_quiet() -> None:
    """Drop the messages of hooks, which are of no use for many services at once."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def run(home: Path, fleet: Sequence[Member], suite: Suite, jobs: int) -> list[Result]:
    """Update the whole fleet, `jobs` services at once; print a line for each as it ends."""
    history = make_history(snapshot(home / "template"), home / "history")
    with ProcessPoolExecutor(jobs, initializer=be_quiet) as pool:
        pending = [pool.submit(renew, history, home / member.name, member, suite) for member in fleet]
        results = []
        for future in pending:
            results.append(future.result())
            print(f"{results[-1].member.name}: {results[-1].seconds:.0f} s", file=sys.stderr)
    return results


if __name__ == "__main__":
    sys.exit(main())
