"""`nox -s growth`: measures all axes and writes docs/performance/growth.md with its plots and its data."""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from dev.processes import workspace

from benchmarks.growth import cache, instances, loads, rows
from benchmarks.growth.document import DIRECTORY, Document, load, publish
from benchmarks.growth.servers import Site, site
from benchmarks.growth.sizes import FULL, QUICK, Sizes
from benchmarks.harness import machine
from tests.rendering import ROOT


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="nox -s growth --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small sizes: every axis once, no figures")
    parser.add_argument("--max-rows", type=int, default=FULL.rows[-1], help="(default: %(default)s)")
    parser.add_argument(
        "--output", type=Path, help="directory of the page (default: docs/performance, and benchmark-results if quick)"
    )
    parser.add_argument("--page", action="store_true", help="write the page from its data, without measuring")
    given = parser.parse_args(argv)
    output = given.output or (ROOT / "benchmark-results" if given.quick else DIRECTORY)
    if given.page:
        publish(load(output), output)
        return
    sizes = QUICK if given.quick else FULL.up_to(given.max_rows)
    output.mkdir(parents=True, exist_ok=True)
    with workspace() as home, site(home, say) as place:
        for document in measure(place, sizes):
            publish(document, output)
    say(f"{output / 'growth.md'}: {document['seconds']:.0f} s")


def measure(place: Site, sizes: Sizes) -> Iterator[Document]:
    """Measure every axis, the loads with few posts; yields the document, and again with each further number of rows."""
    started, began = datetime.now(UTC), time.monotonic()
    first = rows.measure(place, sizes.rows[:2], sizes.seconds)
    requests = loads.mix(place)
    by_clients = loads.clients(place, requests, sizes.clients, sizes.workers_of_clients, sizes.seconds)
    by_workers = loads.workers(place, requests, sizes.workers, sizes.model_clients, sizes.seconds)
    one_worker = next(each["points"] for each in by_workers if each["workers"] == 1)
    document: Document = {
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": 0.0,
        "machine": machine.describe(),
        "settings": {"seconds": sizes.seconds, "workers_of_clients": sizes.workers_of_clients},
        "rows": first,
        "tags": cache.tags(place, sizes.tags, sizes.seconds),
        "entries": cache.entries(place, sizes.entries),
        "clients": by_clients,
        "workers": by_workers,
        "demands": asdict(loads.demands(one_worker)),
        "instances": instances.measure(place, sizes.instances),
    }
    yield {**document, "seconds": time.monotonic() - began}
    for number in sizes.rows[2:]:
        document["rows"] += rows.measure(place, [number], sizes.seconds)
        yield {**document, "seconds": time.monotonic() - began}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
