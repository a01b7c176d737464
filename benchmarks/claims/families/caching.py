"""Caches of responses."""

from benchmarks.claims.bench import RATE, Bench, Side
from benchmarks.harness.scenarios import Request


def response_cache(bench: Bench) -> None:
    with bench.lab.serve("caching", database=True) as server:
        for key, without, cached in (
            ("redis", "/uncached/posts", "/redis/posts"),
            ("local", "/uncached/posts", "/local/posts"),
            ("report", "/uncached/report", "/redis/report"),
        ):
            before, after = (Side(server, [Request("GET", path)]) for path in (without, cached))
            bench.compare(before, after, {key: RATE})
