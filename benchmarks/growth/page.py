"""The page of a document: docs/performance/growth.md (pure)."""

from collections.abc import Iterable, Sequence
from statistics import median

from benchmarks.growth import cache, instances, loads, predictions, rows
from benchmarks.growth.document import Document, demands_of
from benchmarks.harness.report import plain, share

KINDS = ("hit", "miss", "invalidation")


def markdown(document: Document) -> str:
    machine = document["machine"]
    parts = [
        "# How cost grows",
        f"`nox -s growth` measures the rendered service and writes this page, its plots and [its data](growth.json). "
        f"This run started {document['started_at']} and took {document['seconds'] / 60:.1f} minutes, with "
        f"{document['settings']['seconds']:g} s for each load, on {machine['cores']} cores ({machine['cpu']}) that the "
        "service, PostgreSQL, Valkey and the client share. Each value is of one measurement." + _disturbed(document),
        *_rows(document),
        *_tags(document),
        *_entries(document),
        *_clients(document),
        *_workers(document),
        *_instances(document),
    ]
    return "\n\n".join(parts) + "\n"


def _disturbed(document: Document) -> str:
    """Say what other processes took, where it was more than the benchmark allows in its own rounds."""
    points = [point["foreign_cores"] for each in document["workers"] for point in each["points"]]
    points += [each["foreign_cores"] for each in document["clients"]]
    taken = median(points)
    if taken <= predictions.QUIET_CORES:
        return ""
    return (
        f" **Other processes took {taken:.1f} of the {document['machine']['cores']} cores meanwhile** (median). "
        "Buffers and memory do not depend on that. Rates are lower than on a quiet machine, and times are higher, CPU "
        "times as well, because the caches of the processor are shared."
    )


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with numbers to the right."""
    written = [head, ["---:"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in written)


def _rows(document: Document) -> list[str]:
    points = document["rows"]
    first, last = points[0], points[-1]
    more = last["rows"] / first["rows"]
    offset, cursor = (last["statements"][kind] for kind in ("offset", "cursor"))
    return [
        "## Rows",
        "![Time and buffers of a page by number of rows](growth-rows.svg)",
        f"A page of 20 posts with their authors: the first one, and one behind {share(rows.DEPTH)} of the rows, by the "
        "cursor of the service and by OFFSET. Times and buffers (pages of 8 kB, in memory or not) are those of the "
        f"service's own statement in `EXPLAIN (ANALYZE, TIMING OFF, BUFFERS)`; CPU time is that of a request, with "
        f"{rows.CLIENTS} clients.",
        table(
            (
                *("rows", "table, MiB", "front, ms", "cursor, ms", "OFFSET, ms"),
                *("front, buffers", "cursor, buffers", "OFFSET, buffers"),
                *("front, us of CPU: service, servers", "cursor, us of CPU: service, servers"),
            ),
            (
                (
                    f"{each['rows']:,}",
                    f"{each['bytes'] / 2**20:,.0f}",
                    *(f"{each['statements'][kind]['ms']:,.2f}" for kind in ("front", "cursor", "offset")),
                    *(f"{each['statements'][kind]['buffers']:,}" for kind in ("front", "cursor", "offset")),
                    *(
                        f"{each['service_us'][kind]:,.0f}, {each['database_us'][kind]:,.0f}"
                        for kind in ("front", "cursor")
                    ),
                )
                for each in points
            ),
        ),
        f"With {more:,.0f} times more rows, the statement at the front reads "
        f"{last['statements']['front']['buffers']:,} instead of {first['statements']['front']['buffers']:,} buffers, "
        f"and the one behind a cursor {cursor['buffers']:,} instead of {first['statements']['cursor']['buffers']:,}: "
        "both go down the index once, and an index has one more level only when it is some hundred times larger. The "
        "rest of the buffers are the 21 rows and their authors. OFFSET reads and drops all rows before the page, so "
        f"its cost is in proportion to the depth: at {last['rows']:,} rows it reads {offset['buffers']:,} buffers and "
        f"takes {plain(offset['ms'] / cursor['ms'])} times as long as the cursor. What a cursor cannot do is to jump "
        "to page 5,000.",
    ]


def _tags(document: Document) -> list[str]:
    points = document["tags"]
    first, last = points[0], points[-1]
    growth = {
        kind: (last["service_us"][kind] - first["service_us"][kind]) / (last["tags"] - first["tags"]) for kind in KINDS
    }
    return [
        "## Tags of a response",
        "![CPU time by tags and by entries](growth-cache.svg)",
        "Responses of a few bytes with so many tags each, one worker with Valkey, "
        f"{cache.CLIENTS} clients: CPU time of a request in the service and in Valkey, and its p50.",
        table(
            ("tags", *(f"{kind}, us: service, servers" for kind in KINDS), *(f"{kind}, p50 ms" for kind in KINDS)),
            (
                (
                    f"{each['tags']:,}",
                    *(f"{each['service_us'][kind]:,.0f}, {each['servers_us'][kind]:,.0f}" for kind in KINDS),
                    *(plain(each["p50_ms"][kind]) for kind in KINDS),
                )
                for each in points
            ),
        ),
        f"Each tag more costs {growth['hit']:.2f} us of a hit, {growth['miss']:.2f} us of a miss and "
        f"{growth['invalidation']:.2f} us of an invalidation. A hit compares the entry with the last invalidation of "
        "each of its tags in the memory of the worker; a miss asks Valkey for the generation of each tag, in one "
        "command, and an invalidation raises each. So all three are linear in the tags of one response, and none "
        "depends on the number of responses that have a tag: an invalidation visits no entries.",
    ]


def _entries(document: Document) -> list[str]:
    points = document["entries"]
    first, last = points[0], points[-1]
    return [
        "## Entries of the local cache",
        "Responses of 300 bytes in one process without a server, a thousand of them asked for in turn through the "
        "whole stack. Memory is what the system gave the process for the entries.",
        table(
            ("entries", "hit, us of CPU", "invalidation, us of CPU", "MiB", "bytes of an entry"),
            (
                (
                    f"{each['entries']:,}",
                    f"{each['hit_us']:.1f}",
                    f"{each['invalidation_us']:.2f}",
                    f"{each['bytes'] / 2**20:,.1f}",
                    f"{each['bytes'] / each['entries']:,.0f}",
                )
                for each in points
            ),
        ),
        f"The entries are in one hash table, so a hit takes {last['hit_us']:.0f} us with {last['entries']:,} of them "
        f"and {first['hit_us']:.0f} us with {first['entries']:,}; what is added is memory that the processor's caches "
        "do not hold. An invalidation notes the tag and frees nothing. Memory is linear, and the setting "
        "`CACHE_MAX_BYTES` ends it (32 MiB a worker by default).",
    ]


def _clients(document: Document) -> list[str]:
    points = document["clients"]
    best = max(points, key=lambda each: each["requests_per_s"])
    last = points[-1]
    refusing = next((each for each in points if each["refused_per_s"]), None)
    refusals = (
        f"From {refusing['clients']:,} clients on, the limiter refuses a part of them (503 with `Retry-After`), so "
        "that the others wait less."
        if refusing
        else "The limiter refused nothing."
    )
    return [
        "## Clients",
        "![Requests/s and latency by number of clients](growth-clients.svg)",
        f"{loads.TITLE}; {document['settings']['workers_of_clients']} workers, caches off, with the limiter of "
        "production (`MAX_QUEUE_MS=50`). Clients keep their connections, which are accepted before. A refused one "
        "waits as long as `Retry-After` says, and up to a second more. An answer after more than 1 s does not count.",
        table(
            (
                *("clients", "answers/s", "refused/s", "p50, ms", "p99, ms"),
                *("refused, p50 ms", "other errors", "cores of other processes"),
            ),
            (
                (
                    f"{each['clients']:,}",
                    plain(each["requests_per_s"]),
                    plain(each["refused_per_s"]),
                    plain(each["p50_ms"]),
                    plain(each["p99_ms"]),
                    plain(each["refused_p50_ms"]) if each["refused_per_s"] else "-",
                    f"{each['errors']:,}",
                    f"{each['foreign_cores']:.2f}",
                )
                for each in points
            ),
        ),
        f"The highest rate is {plain(best['requests_per_s'])}/s, with {best['clients']:,} clients: then the cores are "
        "busy, and a further client only waits. The latency of a closed loop is then the number of accepted clients "
        f"divided by the rate (Little's law). {refusals} With {last['clients']:,} clients, "
        f"{share(last['requests_per_s'] / best['requests_per_s'])} of the highest rate is left. "
        "[Overload](README.md#overload) compares this with a service without the limiter.",
    ]


def _workers(document: Document) -> list[str]:
    demands, machine = demands_of(document), document["machine"]
    found = predictions.checks(document)
    cores = machine["cores"]
    within = [each for each in found if each.workers <= cores]
    quiet = [each for each in within if predictions.is_quiet(each)]
    forecasts = {number: predictions.on_own_cores(document, number) for number in predictions.DATABASE_CORES}
    smallest = predictions.DATABASE_CORES[0]
    return [
        "## Workers",
        "![Requests/s by number of workers](growth-workers.svg)",
        "The same mix without the limiter, beside the rate that a queueing model predicts: a closed network of "
        "workers, database and client, solved exactly by [convolution](../../benchmarks/growth/model.py), which gives "
        "the values of mean value analysis. Its input are the CPU times of a request with one worker and "
        f"{loads.CALIBRATION_CLIENTS} clients (service {demands.service_s * 1e6:,.0f} us, servers "
        f"{demands.database_s * 1e6:,.0f} us, client {demands.client_s * 1e6:,.0f} us), and what one client alone "
        f"waits beside them ({demands.delay_s * 1e6:,.0f} us). Nothing is fitted to the other points. The Universal "
        "Scalability Law has three parameters, and two numbers of workers on two cores would determine any curve.",
        table(
            ("workers", "clients", "measured/s", "model/s", "error", "cores of other processes"),
            (
                (
                    str(each.workers),
                    str(each.clients),
                    plain(each.measured),
                    plain(each.predicted),
                    f"{each.error:+.0%}" + (" (given)" if each.calibrated else ""),
                    f"{each.foreign_cores:.2f}",
                )
                for each in found
            ),
        ),
        f"The error is {predictions.error_text(within)} up to {cores} workers, {predictions.error_text(found)} with "
        f"all numbers of workers, and {predictions.error_text(quiet)} up to {cores} workers where other processes "
        f"took at most {predictions.QUIET_CORES:g} cores. The model takes a request to cost the same CPU time at "
        "every load, while a busy worker answers several in one turn of its event loop. It also knows nothing of other "
        "processes of the machine: where they took cores, the measured rate is lower, and the difference says little "
        f"about the model. More workers than cores get no more time, because they share {cores} cores with the "
        "database and the client: the model has the same rate for them, without the cost of switching between them.",
        "On paper, with a core for each worker, a database and clients on other machines, and "
        f"{predictions.CLIENTS_OF_A_WORKER} clients for each worker, in requests/s:",
        table(
            ("workers", *(f"database with {number} cores" for number in forecasts)),
            (
                (str(each.number), *(plain(forecasts[number][at].requests_per_s) for number in forecasts))
                for at, each in enumerate(forecasts[smallest])
            ),
        ),
        f"The line bends where the database is busy: {smallest} of its cores are, from about "
        f"{predictions.workers_of(document, smallest):.1f} workers on. Locks in the database, the network and the "
        "cost of many connections are not in the model, so the real line bends earlier.",
    ]


def _instances(document: Document) -> list[str]:
    limits = instances.MAX_CONNECTIONS
    by_limit = {
        limit: {each["instances"]: each for each in document["instances"] if each["max_connections"] == limit}
        for limit in limits
    }
    most, middle = max(limits), predictions.DATABASE_CORES[1]
    rates = {each.number: each.requests_per_s for each in predictions.of_instances(document, most, middle)}
    refused = [number for number, each in by_limit[min(limits)].items() if each["connections"] is None]
    bends = (
        f"from {refused[0]} instances on, the plan does not fit into {min(limits)} connections, and the service does "
        "not start"
        if refused
        else f"all of them fit into {min(limits)} connections"
    )
    lines = []
    for number in by_limit[most]:
        cells = [str(number)]
        for limit in limits:
            each = by_limit[limit][number]
            cells += ["-", "-"] if each["connections"] is None else [str(each["pool_size"]), str(each["connections"])]
        lines.append([*cells, plain(rates[number]) if number in rates else "-"])
    return [
        "## Instances",
        "![Connections and requests/s by number of instances](growth-instances.svg)",
        f"Instances of {instances.WORKERS} workers: the pool of a worker and all connections by the capacity plan "
        "(`INSTANCES=n python -m app capacity`), for databases that allow "
        f"{' and '.join(map(str, limits))}; and the rate of the same model, for a database of {middle} cores.",
        table(
            (
                "instances",
                *(f"{what} of {limit}" for limit in limits for what in ("pool", "connections")),
                "requests/s on paper",
            ),
            lines,
        ),
        f"A pool has 10 connections while the database has enough, then its share: {bends}. "
        "The rate bends where the cores of the database are busy, which more connections do not change.",
    ]
