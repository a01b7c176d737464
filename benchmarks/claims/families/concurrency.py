"""Waiting and computing on one event loop."""

from benchmarks.claims.bench import P50, P95, RATE, Bench, Side
from benchmarks.harness.scenarios import Request

LIVE = [Request("GET", "/livez")]
# Of the requests that show the state of the loop: a small part of what it can serve.
PROBES_PER_S = 100.0
BLOCKING_PER_S = 2.0
TASKS_PER_S = 4.0


def blocking_call(bench: Bench) -> None:
    with bench.lab.serve("waiting") as server:
        # More clients would wait for minutes after the round; the rate of a loop that is blocked stays the same.
        blocking = Side(server, [Request("GET", "/blocking")], clients=5, times=2)
        awaited = Side(server, [Request("GET", "/awaited")], clients=400, times=2)
        bench.compare(blocking, awaited, {"rate": RATE})
        calls = Side(server, [Request("GET", "/blocking")], rate=BLOCKING_PER_S)
        quiet = Side(server, LIVE, rate=PROBES_PER_S, times=2)
        disturbed = Side(server, LIVE, rate=PROBES_PER_S, times=2, beside=calls)
        bench.compare(disturbed, quiet, {"others": P95})


def gather(bench: Bench) -> None:
    with bench.lab.serve("database", database=True) as server:
        one_by_one, together = (
            Side(server, [Request("GET", f"/slow/{way}")], clients=1) for way in ("one-by-one", "gather")
        )
        bench.compare(one_by_one, together, {"slow": RATE})
        users = bench.lab.rows.users[:500]
        one_by_one, together = (
            Side(server, [Request("GET", f"/three/{user}/{way}") for user in users]) for way in ("one-by-one", "gather")
        )
        bench.compare(one_by_one, together, {"busy": RATE})


def background_work(bench: Bench) -> None:
    with bench.lab.serve("background") as server:
        inline, background = (
            Side(server, [Request("POST", path)], clients=4, rate=TASKS_PER_S, times=4)
            for path in ("/inline", "/background")
        )
        bench.compare(inline, background, {"response": P50}, few=True)
        quiet = Side(server, LIVE, rate=PROBES_PER_S, times=3)
        for key, path in (("loop", "/background"), ("thread", "/thread")):
            tasks = Side(server, [Request("POST", path)], clients=4, rate=TASKS_PER_S)
            busy = Side(server, LIVE, rate=PROBES_PER_S, times=3, beside=tasks)
            bench.compare(quiet, busy, {key: P95}, few=True)
