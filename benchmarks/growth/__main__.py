"""`nox -s growth`: measures all axes and writes docs/performance/growth.md with its plots and its data."""

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from dev.processes import workspace

from benchmarks.growth import cache, instances, loads, rows
from benchmarks.growth.document import DIRECTORY, Document, publish
from benchmarks.growth.servers import Site, site
from benchmarks.growth.sizes import FULL, QUICK, Sizes
from benchmarks.harness import machine


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="nox -s growth --", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few and small sizes: every axis once, no figures")
    parser.add_argument("--max-rows", type=int, default=FULL.rows[-1], help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=DIRECTORY, help="directory of the page (default: %(default)s)")
    parser.add_argument("--page", action="store_true", help="write the page from its data, without measuring")
    given = parser.parse_args(argv)
    if given.page:
        document: Document = json.loads((given.output / "growth.json").read_text(encoding="utf-8"))
    else:
        sizes = QUICK if given.quick else FULL.up_to(given.max_rows)
        given.output.mkdir(parents=True, exist_ok=True)
        with workspace() as home, site(home, say) as place:
            document = measure(place, sizes)
    for path in publish(document, given.output):
        say(str(path))


def measure(place: Site, sizes: Sizes) -> Document:
    """Measure every axis; the posts grow last, so that the loads meet few of them."""
    started, began = datetime.now(UTC), time.monotonic()
    first = rows.measure(place, sizes.rows[:2], sizes.seconds)
    requests = loads.mix(place)
    found_clients = loads.clients(place, requests, sizes.clients, sizes.workers_of_clients, sizes.seconds)
    found_workers = loads.workers(place, requests, sizes.workers, sizes.model_clients, sizes.seconds)
    found_tags = cache.tags(place, sizes.tags, sizes.seconds)
    found_entries = cache.entries(place, sizes.entries)
    found_instances = instances.measure(place, sizes.instances)
    found_rows = first + rows.measure(place, sizes.rows[2:], sizes.seconds)
    one_worker = next(each["points"] for each in found_workers if each["workers"] == 1)
    return {
        "started_at": started.isoformat(timespec="seconds"),
        "seconds": time.monotonic() - began,
        "machine": machine.describe(),
        "settings": {"seconds": sizes.seconds, "workers_of_clients": sizes.workers_of_clients},
        "rows": found_rows,
        "tags": found_tags,
        "entries": found_entries,
        "clients": found_clients,
        "workers": found_workers,
        "demands": asdict(loads.demands(one_worker)),
        "instances": found_instances,
    }


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
