"""Numbers of workers, their memory and replacement, and the event loop."""

from statistics import median

from benchmarks.claims.bench import CPU_RATE, P95, RATE, Bench, Side
from benchmarks.claims.lab import gunicorn, program
from benchmarks.claims.results import Found
from benchmarks.harness.scenarios import Request

SMALL = [Request("GET", "/livez")]
# On as many cores as the smaller side has workers.
N = 2
MAX_REQUESTS = 5_000


def reads(bench: Bench) -> list[Request]:
    return [Request("GET", f"/users/{user}/pool") for user in bench.lab.rows.users[:500]]


def workers(bench: Bench) -> None:
    compute = [Request("GET", "/compute")]
    with bench.lab.serve("minimal", alone=False) as single:
        for key, number in (("two", 2), ("four", 4)):
            with bench.lab.serve("minimal", workers=bench.plan.workers(number)) as several:
                bench.compare(Side(single, compute, times=2), Side(several, compute, times=2), {key: RATE})
    with (
        bench.lab.serve("database", alone=False, database=True) as single,
        bench.lab.serve("database", workers=2, database=True) as several,
    ):
        bench.compare(Side(single, reads(bench)), Side(several, reads(bench)), {"database": RATE})


def two_n_plus_one(bench: Bench) -> None:
    with (
        bench.lab.serve("database", workers=N, cores=N, database=True) as fitting,
        bench.lab.serve("database", workers=bench.plan.workers(2 * N + 1), cores=N, database=True) as formula,
    ):
        few, many = (Side(server, reads(bench), clients=40) for server in (fitting, formula))
        bench.compare(few, many, {"rate": RATE, "p95": P95})


def uvloop(bench: Bench) -> None:
    with (
        bench.lab.serve("minimal", "--loop", "asyncio", "--http", "httptools") as slower,
        bench.lab.serve("minimal", "--loop", "uvloop", "--http", "httptools") as faster,
    ):
        bench.compare(Side(slower, SMALL), Side(faster, SMALL), {"fastapi": RATE})
    with (
        bench.lab.serve("protocol", command=program("protocol", "asyncio")) as slower,
        bench.lab.serve("protocol", command=program("protocol", "uvloop")) as faster,
    ):
        # Long rounds, because the system counts CPU time in steps of 10 ms.
        sides = [Side(server, SMALL, times=4) for server in (slower, faster)]
        bench.compare(sides[0], sides[1], {"protocol": CPU_RATE}, few=True)


def memory(bench: Bench) -> None:
    processes = bench.plan.processes
    with bench.lab.serve("minimal", workers=processes) as server:
        bench.once(Side(server, SMALL, clients=40), 4 * bench.plan.seconds)
        bench.record("minimal", Found(server.memory_mb(), "MB"))
    with bench.lab.serve("database", workers=processes, database=True) as server:
        # By SQLAlchemy, beside the pool of asyncpg that each worker opens.
        requests = [request._replace(path=request.path.replace("/pool", "/async")) for request in reads(bench)]
        bench.once(Side(server, requests), 4 * bench.plan.seconds)
        bench.record("usual", Found(server.memory_mb(), "MB"))


def max_requests(bench: Bench) -> None:
    seconds, processes = bench.plan.seconds, bench.plan.processes
    # Each worker is a value.
    with bench.lab.serve("minimal", command=gunicorn("minimal"), workers=processes) as server:
        side = Side(server, SMALL, clients=10 * processes)
        bench.once(side, 3 * seconds)
        before = server.memory_mb()
        bench.once(side, 27 * seconds)
        after = server.memory_mb()
        server.running.check()
        growth = [round(late / early, 4) for early, late in zip(before, after, strict=True)]
        bench.record("growth", Found(growth, "MB", before=median(before), after=median(after)))
    limits = ("--max-requests", str(MAX_REQUESTS), "--max-requests-jitter", str(MAX_REQUESTS // 10))
    with (
        bench.lab.serve("minimal", command=gunicorn("minimal"), workers=N) as kept,
        bench.lab.serve("minimal", command=gunicorn("minimal", *limits), workers=N) as replaced,
    ):
        # Rounds of some thousand requests, so that most have a replacement, which may lose connections in use.
        without, with_limit = (Side(server, SMALL, times=6, may_fail=True) for server in (kept, replaced))
        bench.compare(without, with_limit, {"rate": RATE}, few=True)
