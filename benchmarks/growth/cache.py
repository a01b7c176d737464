"""The cache: tags of a response, on a running service with Valkey; entries, inside of one process."""

from collections.abc import Iterable
from statistics import median
from typing import TypedDict

from benchmarks.growth.asking import ask
from benchmarks.growth.servers import Site
from benchmarks.harness import probes
from benchmarks.harness.scenarios import Request

CLIENTS = 4
# So many paths that misses at the same time are different ones, and each is asked for again.
PATHS = 20
WARM_UP_S = 0.5


class TagsPoint(TypedDict):
    """CPU time of a request by its kind, in the service and in the servers, in microseconds; and the p50 of each."""

    tags: int
    service_us: dict[str, float]
    servers_us: dict[str, float]
    p50_ms: dict[str, float]


class EntriesPoint(TypedDict):
    """CPU time in microseconds of a hit, and of the invalidation of one tag in the memory of the process."""

    entries: int
    hit_us: float
    invalidation_us: float
    bytes: int


def tags(site: Site, counts: Iterable[int], seconds: float) -> list[TagsPoint]:
    """Measure hits, misses and invalidations of responses with so many tags each."""
    found: list[TagsPoint] = []
    with site.service(workers=1, cache_backend="valkey", MAX_QUEUE_MS="0") as service:
        for count in counts:
            kinds = {
                kind: [Request("GET", f"/growth/{count}/{path}/{number}") for number in range(PATHS)]
                for kind, path in (("hit", "hits"), ("miss", "misses"))
            }
            kinds["invalidation"] = [Request("POST", f"/growth/{count}/invalidations")]
            # Warms up; the hits come last, because the invalidations would end them.
            for requests in reversed(kinds.values()):
                ask(service, site.servers, requests, clients=1, seconds=WARM_UP_S)
            asked = {
                kind: ask(service, site.servers, requests, clients=CLIENTS, seconds=seconds)
                for kind, requests in kinds.items()
            }
            point: TagsPoint = {
                "tags": count,
                "service_us": {kind: each["service_us"] for kind, each in asked.items()},
                "servers_us": {kind: each["database_us"] for kind, each in asked.items()},
                "p50_ms": {kind: each["p50_ms"] for kind, each in asked.items()},
            }
            found.append(point)
            costs = ", ".join(f"{kind} {value:,.0f} us" for kind, value in point["service_us"].items())
            site.say(f"{count:,} tags: {costs}")
    return found


def entries(site: Site, counts: Iterable[int]) -> list[EntriesPoint]:
    """Fill the local cache of a process of its own for each number of entries."""
    found: list[EntriesPoint] = []
    for count in counts:
        measured = probes.result(site.python("valkey", "app.growth.probe", str(count)))
        point: EntriesPoint = {
            "entries": count,
            "hit_us": median(measured["hit_us"]),
            "invalidation_us": measured["invalidation_us"],
            "bytes": measured["bytes"],
        }
        found.append(point)
        site.say(f"{count:,} entries: hit {point['hit_us']:.0f} us, {point['bytes'] / 2**20:,.0f} MiB")
    return found
