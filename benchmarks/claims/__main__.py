"""Measures claims and writes docs/claims.json and docs/claims.md: `nox -s claims [-- NAME ...]`.

A claim that cannot be measured keeps its old row, and the exit code is 1.
"""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from dev.processes import ServerUnavailable, workspace

from benchmarks.__main__ import package_versions
from benchmarks.claims import page, results
from benchmarks.claims.bench import QUICK, Bench, Plan, RoundFailed
from benchmarks.claims.lab import FEW, SIZE, Lab, lab
from benchmarks.claims.table import BY_NAME, CLAIMS, Claim
from benchmarks.harness import machine
from benchmarks.harness.drivers import DriverError
from benchmarks.harness.services import ServiceDied

FAILURES = (DriverError, RoundFailed, ServerUnavailable, ServiceDied, OSError)


def main(arguments: Sequence[str]) -> int:
    """Returns the exit code: 0, 1 after an error, 130 when interrupted."""
    chosen = parse(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    claims = [BY_NAME[name] for name in chosen.names] or list(CLAIMS)
    output: Path | None = chosen.output
    if output:
        # Before the run, because it takes minutes.
        output.parent.mkdir(parents=True, exist_ok=True)
    rows = results.load(output) if output else {}
    failed = []
    try:
        with workspace() as home, lab(home, FEW if chosen.quick else SIZE, say) as prepared:
            for number, claim in enumerate(claims, 1):
                say(f"{number}/{len(claims)} {claim.name}: {claim.text}")
                began = time.monotonic()
                try:
                    rows[claim.name] = measure(claim, prepared, QUICK if chosen.quick else Plan(), say)
                except FAILURES as error:
                    failed.append(claim.name)
                    say(f"  not measured: {error}")
                    continue
                say(f"  {page.verdict(claim, rows[claim.name])}, after {time.monotonic() - began:.0f} s")
                if output:
                    # Ctrl-C keeps the claims so far.
                    write(rows, output)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    if failed:
        say(f"not measured: {', '.join(failed)}")
    return 1 if failed else 0


def measure(claim: Claim, prepared: Lab, plan: Plan, tell: Callable[[str], None]) -> results.Row:
    """Measure one claim."""
    bench = Bench(prepared, claim, plan, tell)
    getattr(import_module(f"benchmarks.claims.families.{claim.family}"), claim.function)(bench)
    installed = package_versions()
    versions = {name: installed[name] for name in ("python", *claim.packages)}
    return results.Row(
        date=datetime.now(UTC).date().isoformat(), machine=machine.describe(), versions=versions, figures=bench.found
    )


def write(rows: dict[str, results.Row], data: Path) -> None:
    """Write the rows in the order of the table, and the page beside the data."""
    ordered = {claim.name: rows[claim.name] for claim in CLAIMS if claim.name in rows}
    results.save(ordered, data)
    data.with_suffix(".md").write_text(page.page(ordered), encoding="utf-8", newline="\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="nox -s claims --", description="Measure claims of common advice.")
    # `choices` would refuse that there is none.
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BY_NAME)}; all without one")
    parser.add_argument("--quick", action="store_true", help="one short pair of rounds each: whether it runs at all")
    parser.add_argument("--output", type=Path, default=results.DATA, help="the data, beside which the page is written")
    chosen = parser.parse_args(arguments)
    if unknown := [name for name in chosen.names if name not in BY_NAME]:
        parser.error(f"no such claim: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
    if chosen.quick and chosen.output == results.DATA:
        # Its figures say nothing.
        chosen.output = None
    return chosen


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
