"""Caches of responses."""

from benchmarks.claims.bench import CLIENTS, RATE, Bench, Side
from benchmarks.harness.scenarios import Request


def response_cache(bench: Bench) -> None:
    with bench.lab.serve("caching", database=True) as server:
        for key, without, cached in (
            ("redis", "/uncached/posts", "/redis/posts"),
            ("local", "/uncached/posts", "/local/posts"),
            ("report", "/uncached/report", "/redis/report"),
        ):
            # The report takes long: few clients and long rounds give it enough answers.
            is_slow = key == "report"
            before = Side(
                server, [Request("GET", without)], clients=4 if is_slow else CLIENTS, times=3 if is_slow else 1
            )
            bench.compare(before, Side(server, [Request("GET", cached)]), {key: RATE}, few=is_slow)
