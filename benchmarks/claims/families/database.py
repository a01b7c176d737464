"""Ways to the database: connections, sessions, loads and pages."""

from urllib.parse import urlencode

from benchmarks.claims.bench import RATE, Bench, Side
from benchmarks.harness.scenarios import Request

# More than the 40 threads of Starlette.
WAITING_CLIENTS = 400


def by_key(bench: Bench, way: str) -> list[Request]:
    return [Request("GET", f"/users/{user}/{way}") for user in bench.lab.rows.users[:500]]


def pooling(bench: Bench) -> None:
    with bench.lab.serve("database", database=True) as server:
        bench.compare(Side(server, by_key(bench, "connection")), Side(server, by_key(bench, "pool")), {"pool": RATE})


def async_io(bench: Bench) -> None:
    with bench.lab.serve("database", database=True) as server:
        bench.compare(Side(server, by_key(bench, "sync")), Side(server, by_key(bench, "async")), {"session": RATE})
    with bench.lab.serve("waiting") as server:
        # The threads work off a queue of 400 in a second.
        threads, awaited = (
            Side(server, [Request("GET", path)], clients=WAITING_CLIENTS, times=4) for path in ("/thread", "/awaited")
        )
        bench.compare(threads, awaited, {"waiting": RATE}, few=True)


def eager_loading(bench: Bench) -> None:
    with bench.lab.serve("lists", database=True) as server:
        # Few clients and long rounds, so that a slow side gives enough answers.
        for key, limit in (("twenty", 20), ("hundred", 100)):
            lazy, eager = (
                Side(server, [Request("GET", f"/posts/{way}?limit={limit}")], clients=4, times=3)
                for way in ("n-plus-one", "eager")
            )
            bench.compare(lazy, eager, {key: RATE}, few=True)


def cursor(bench: Bench) -> None:
    with bench.lab.serve("lists", database=True) as server:
        rows = bench.lab.rows
        last = {"created_at": rows.last_created_at.isoformat(), "post_id": rows.last_id}
        by_offset = Side(server, [Request("GET", f"/pages/offset?offset={rows.depth}")], clients=4, times=3)
        deep = Side(server, [Request("GET", f"/pages/keyset?{urlencode(last)}")], clients=4)
        bench.compare(by_offset, deep, {"deep": RATE}, few=True)
        top = {"created_at": "2100-01-01T00:00:00+00:00", "post_id": rows.last_id}
        first = Side(server, [Request("GET", f"/pages/keyset?{urlencode(top)}")], clients=4)
        bench.compare(first, deep, {"constant": RATE})
