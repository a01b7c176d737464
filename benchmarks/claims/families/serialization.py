"""JSON encoders."""

from benchmarks.claims.bench import RATE, Bench, Side
from benchmarks.harness.scenarios import Request


def orjson(bench: Bench) -> None:
    with bench.lab.serve("serialization") as server:
        for key, without, with_orjson in (
            ("typed", "/typed", "/typed/orjson"),
            ("untyped", "/untyped", "/untyped/orjson"),
            ("dumps", "/dumps/json", "/dumps/orjson"),
        ):
            before, after = (
                Side(server, [Request("GET", path)], clients=8, times=2) for path in (without, with_orjson)
            )
            bench.compare(before, after, {key: RATE})
