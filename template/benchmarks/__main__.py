"""Measure each endpoint of the service, or compare two versions: `nox -s bench -- --help`.

Exit code with --against: 1 if an endpoint is slower, 2 if nothing could be compared, 0 otherwise.
"""

import argparse
import signal
import sys
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx2

from benchmarks import report
from benchmarks.judgement import QUANTILES
from benchmarks.measuring import Costs, Endpoint, measure
from benchmarks.requests import payloads
from benchmarks.service import Service, Unusable, deployed, running
from dev.processes import ServerUnavailable, workspace


def main() -> int:
    chosen = arguments().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return bench(chosen)
    except (Unusable, ServerUnavailable, httpx2.HTTPError, FileNotFoundError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except Exception:
        # Python's own code would be 1, which says that an endpoint is slower.
        traceback.print_exc()
        return 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--against", metavar="REF", help="a commit, a branch or a tag")
    parser.add_argument("--threshold", type=float, default=5, help="percent; 5 unless given")
    parser.add_argument("--only", default="", metavar="TEXT", help="endpoints with this text")
    parser.add_argument(
        "--starts", type=int, choices=QUANTILES, default=16, help="the most of both versions; 16"
    )
    parser.add_argument("--rounds", type=int, default=10, help="of each start; 10")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time; 8")
    return parser


def bench(chosen: argparse.Namespace) -> int:
    """Measure, print and write the results; return the exit code."""
    threshold = chosen.threshold / 100
    with workspace() as home, ExitStack() as stack:
        refs = [chosen.against, None] if chosen.against else [None]
        versions = [stack.enter_context(deployed(ref, home / "old")) for ref in refs]
        endpoints: list[Endpoint] = []
        for number in range(1, chosen.starts + 1 if chosen.against else 2):
            unclear = [each for each in endpoints if not each.is_clear(threshold)]
            if endpoints and not unclear:
                break
            with ExitStack() as started:
                contexts = [
                    running(each, home / f"{number}-{at}", chosen.workers)
                    for at, each in enumerate(versions)
                ]
                with ThreadPoolExecutor() as pool:
                    services = list(pool.map(started.enter_context, contexts))
                endpoints = endpoints or found_in(services, chosen.only)
                measure(services, unclear or endpoints, chosen.clients, chosen.rounds)
            if chosen.against:
                print(f"start {number} of at most {chosen.starts}", flush=True)
    names = [version.name for version in versions]
    rows = report.rows(endpoints, threshold)
    print(report.table(rows), *report.write(rows, names), sep="\n")
    slower = sorted({str(row["endpoint"]) for row in rows if row.get("verdict") == "slower"})
    if slower:
        print(f"slower by more than {chosen.threshold:g} %: {', '.join(slower)}")
    return 1 if slower else 0


def found_in(services: Sequence[Service], only: str) -> list[Endpoint]:
    """Return the endpoints that every version has."""
    requests = [payloads(each) for each in services]
    every = dict.fromkeys(name for each in requests for name in each if only in name)
    shared = [name for name in every if all(name in each for each in requests)]
    for name in every.keys() - shared:
        print(f"left out: {name} is an endpoint of one version only")
    if not shared:
        raise Unusable("There is no endpoint to measure.")
    return [
        Endpoint(name, [each[name] for each in requests], [Costs() for _ in requests])
        for name in shared
    ]


if __name__ == "__main__":
    sys.exit(main())
