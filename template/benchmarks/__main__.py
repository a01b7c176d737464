"""Measure each endpoint of the service, or compare two versions: `nox -s bench -- --help`.

Exit code with --against: 1 if an endpoint is slower, 2 if nothing could be compared, 0 otherwise.
"""

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx2

from benchmarks import report
from benchmarks.measuring import Costs, Endpoint, Meter, compare, measure
from benchmarks.requests import payloads
from benchmarks.service import PRESENT, Service, Unusable, Version, checkout, running
from dev.processes import ServerUnavailable, workspace
from tests.core.serving import ROOT

RESULTS = Path(__file__).parent / "results"


def main() -> int:
    chosen = arguments().parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return bench(chosen)
    except (Unusable, ServerUnavailable, httpx2.HTTPError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception:
        # Python's own code would be 1, which says that an endpoint is slower.
        traceback.print_exc()
        return 2


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nox -s bench --", description=__doc__)
    parser.add_argument("--against", metavar="REF", help="a commit, a branch or a tag")
    parser.add_argument("--threshold", type=float, default=5, help="percent; 5 unless given")
    parser.add_argument("--only", default="", metavar="TEXT", help="endpoints with this text")
    parser.add_argument("--rounds", type=int, default=200, help="the most for each endpoint; 200")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=8, help="requests at the same time; 8")
    return parser


def bench(chosen: argparse.Namespace) -> int:
    """Measure, print and write the results; return the exit code."""
    with workspace() as home, ExitStack() as stack:
        versions = [PRESENT]
        if chosen.against:
            versions.insert(0, checkout(chosen.against, home / "old"))
        services: list[Service] = []
        requests: list[dict[str, bytes]] = []
        for number, version in enumerate(versions):
            own = home / f"service-{number}"
            services.append(stack.enter_context(running(version, own, chosen.workers)))
            requests.append(found(version, services[-1].port))
        endpoints = both(requests, versions, chosen.only)
        meter = Meter(services, chosen.clients)
        stack.callback(meter.pool.shutdown)
        threshold = chosen.threshold / 100
        if chosen.against:
            compare(meter, endpoints, threshold, chosen.rounds)
        else:
            measure(meter, endpoints)
    return conclude(endpoints, versions, threshold)


def found(version: Version, port: int) -> dict[str, bytes]:
    """Return the requests of a version, and print those that cannot be measured."""
    with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        try:
            requests, refused = payloads(client)
        except httpx2.HTTPStatusError as error:
            raise Unusable(f"benchmarks/load.toml, {version.name}: {error}") from error
    for name, reason in refused.items():
        print(f"left out: {name} {reason} ({version.name})")
    return requests


def both(
    requests: Sequence[dict[str, bytes]], versions: Sequence[Version], only: str
) -> list[Endpoint]:
    """Return the endpoints that every version has."""
    shared = [name for name in requests[0] if all(name in each for each in requests)]
    for each, version in zip(requests, versions, strict=True):
        for name in each.keys() - shared:
            print(f"left out: {name} is measured in {version.name} only")
    names = [name for name in shared if only in name]
    if not names:
        raise Unusable("There is no endpoint to measure.")
    return [
        Endpoint(name, [each[name] for each in requests], [Costs() for _ in requests])
        for name in names
    ]


def conclude(endpoints: list[Endpoint], versions: Sequence[Version], threshold: float) -> int:
    """Print the table, write the files, and return the exit code."""
    names = [version.name for version in versions]
    if len(versions) == 1:
        rows = report.alone(endpoints)
        slower = []
        bars = [
            (each.name, low, low, high)
            for each in endpoints
            for low, high in [report.latencies_ms(each.costs[0])]
        ]
        svg = report.drawing("Latency in ms: median to 99th percentile", bars, 0)
    else:
        rows = report.compared(endpoints, threshold)
        slower = [row[0] for row in rows if row[-1] == "slower"]
        bars = [
            (each.name, found.low, found.middle, found.high)
            for each in endpoints
            if (found := each.compared("service"))
        ]
        svg = report.drawing(
            f"CPU time of the service: {names[1]} / {names[0]}", bars, 1 + threshold
        )
    print(report.aligned(rows))
    facts = {"versions": names, "threshold": threshold, "python": sys.version}
    text = report.as_json(endpoints, facts)
    for path in report.write(RESULTS, time.strftime("%Y%m%d-%H%M%S"), {"json": text, "svg": svg}):
        print(path.relative_to(ROOT))
    if slower:
        print(f"slower by more than {100 * threshold:g} %: {', '.join(sorted(set(slower)))}")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
