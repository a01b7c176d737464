"""The claims of common advice (pure): the figures of each, their rules, and the answer of a rendered service."""

from dataclasses import dataclass, field

from benchmarks.claims.verdicts import AtLeast, Between, Rule


@dataclass(frozen=True)
class Figure:
    """One comparison; `title` names both sides, and the figure, of which the rule speaks."""

    key: str
    title: str
    rule: Rule


@dataclass(frozen=True)
class Claim:
    """One piece of advice; `family` is the module that has a function of the claim's name."""

    name: str
    family: str
    text: str
    figures: tuple[Figure, ...]
    # One sentence: the cause of the figures.
    why: str
    # The answer of a rendered service, with the file or the setting.
    rendered: str
    # The packages on which the figures depend.
    packages: tuple[str, ...] = field(default=("fastapi", "uvicorn"))

    @property
    def function(self) -> str:
        return self.name.replace("-", "_")

    @property
    def command(self) -> str:
        return f"nox -s claims -- {self.name}"


CLAIMS = (
    Claim(
        "orjson",
        "serialization",
        "`ORJSONResponse` gives 20-30 % more requests; orjson is 2-3x as fast as `json`",
        (
            Figure("typed", "100 rows with a return type: `ORJSONResponse` against none, requests/s", AtLeast(1.2)),
            Figure("untyped", "100 rows without a type: `ORJSONResponse` against none, requests/s", AtLeast(1.2)),
            Figure("dumps", "serializing 100 rows 20 times: orjson against `json`, requests/s", AtLeast(2)),
        ),
        "orjson is faster than `json`, but FastAPI's encoder costs most of an untyped response, and a return type lets "
        "Pydantic write the bytes, which a response class turns off.",
        "Return types and no response class; `json_response(...)`, with orjson, on hot paths "
        "(`app/core/http/serialization.py`).",
        ("fastapi", "pydantic", "orjson"),
    ),
    Claim(
        "workers",
        "servers",
        "4 workers give 4x the requests",
        (
            Figure("two", "computing, 2 workers against 1, requests/s", AtLeast(1.8)),
            Figure("four", "computing, 4 workers against 1, requests/s", AtLeast(3.6)),
            Figure("database", "reads of one row, 2 workers against 1, requests/s", AtLeast(1.8)),
        ),
        "Workers divide the cores, which the database and the clients need as well; nothing is known here of more "
        "workers than the machine below has cores.",
        "One worker for each usable core (`deploy/gunicorn.conf.py`, `app/core/operations/capacity.py`).",
        ("fastapi", "uvicorn", "asyncpg"),
    ),
    Claim(
        "response-cache",
        "caching",
        "A response cache gives 10-100x",
        (
            Figure("redis", "a page of 20 posts: Redis in the route against none, requests/s", AtLeast(10)),
            Figure("local", "a page of 20 posts: a dict before FastAPI against none, requests/s", AtLeast(10)),
            Figure("report", "a report over all posts: Redis in the route against none, requests/s", AtLeast(10)),
        ),
        "The gain is the price of the miss divided by the price of the hit, and a hit inside the route still pays for "
        "FastAPI and the client of Redis.",
        "A response cache before the router, in the worker and in Valkey (`app/core/cache/responses/`).",
        ("fastapi", "sqlalchemy", "redis"),
    ),
    Claim(
        "pooling",
        "database",
        "A connection pool gives 5-10x over a connection for each request",
        (Figure("pool", "one row by key: a pool against a connection each, requests/s", AtLeast(5)),),
        "A new connection costs PostgreSQL a process and a password check, and the driver several round trips.",
        "One pool for each worker, whose size comes from the capacity plan (`app/core/database/engine.py`).",
        ("fastapi", "asyncpg"),
    ),
    Claim(
        "async-io",
        "database",
        "Async I/O gives 2-5x over synchronous endpoints",
        (
            Figure("session", "one row by key: async against synchronous session, requests/s", AtLeast(2)),
            Figure("waiting", "waiting 100 ms, 400 clients: `await` against threads, requests/s", AtLeast(2)),
        ),
        "Async code waits without a thread, so it wins where 40 threads all wait; it computes no faster, and a fast "
        "query of SQLAlchemy is computing.",
        "Async from server to driver; libraries that block run in threads (`app/core/concurrency/threads.py`).",
        ("fastapi", "sqlalchemy", "asyncpg", "psycopg"),
    ),
    Claim(
        "blocking-call",
        "concurrency",
        "One blocking call of 100 ms in a coroutine: 5,000 to 10 requests/s",
        (
            Figure("rate", "the endpoint with 400 clients: awaited against blocking, requests/s", AtLeast(100)),
            Figure("others", "p95 of `/livez`: without against with 2 blocking calls a second", AtLeast(10)),
        ),
        "The loop runs nothing else during the call, so the rate is one request for each 100 ms, and all other "
        "requests of the worker wait too.",
        "A test fails if a call blocks the loop, and a watchdog logs it in production "
        "(`tests/core/plugin.py`, `app/core/telemetry/watchdog.py`).",
    ),
    Claim(
        "gather",
        "concurrency",
        "`asyncio.gather` of 3 calls gives 3x",
        (
            Figure("slow", "3 queries of 10 ms, 1 client: together against one by one, requests/s", AtLeast(2.5)),
            Figure("busy", "3 reads of one row, 20 clients: together against one by one, requests/s", AtLeast(2.5)),
        ),
        "`gather` overlaps waiting; a busy worker does not wait, and each request takes three connections at a time.",
        "`gather(...)` of parts with a time limit, each of which may be left out (`app/core/concurrency/partial.py`).",
        ("fastapi", "asyncpg"),
    ),
    Claim(
        "eager-loading",
        "database",
        "Eager loading gives 10-50x over N+1 queries",
        (
            Figure("twenty", "20 posts with authors: `selectinload` against lazy, requests/s", AtLeast(10)),
            Figure("hundred", "100 posts with authors: `selectinload` against lazy, requests/s", AtLeast(10)),
        ),
        "2 queries replace 1 + N, but the ORM still makes all objects; the gain grows with the rows and with the "
        "distance to the database, which is on the same machine here.",
        "A lazy load raises an error, and tests count statements (`app/posts/models.py`, `tests/core/budget.py`).",
        ("fastapi", "sqlalchemy", "psycopg"),
    ),
    Claim(
        "cursor",
        "database",
        "Cursor pages cost the same at any depth; OFFSET gets slower with it",
        (
            Figure("deep", "the page before the last: keyset against OFFSET, requests/s", AtLeast(10)),
            Figure("constant", "keyset: the page before the last against the first, requests/s", AtLeast(0.8)),
        ),
        "OFFSET reads and throws away all rows before the page; a keyset enters the index at the page.",
        "Signed keyset cursors over an index (`app/core/pagination/`, answer `pagination: cursor`).",
        ("fastapi", "asyncpg"),
    ),
    Claim(
        "uvloop",
        "servers",
        "uvloop gives 2-4x over asyncio",
        (
            Figure("fastapi", "a small FastAPI endpoint: uvloop against asyncio, requests/s", AtLeast(2)),
            Figure(
                "protocol",
                "constant bytes on the bare loop: uvloop against asyncio, requests per CPU second",
                AtLeast(2),
            ),
        ),
        "The loop is a small part of a request through FastAPI, and asyncio has become faster.",
        "uvloop and httptools, where they are installed (`app/core/server/worker.py`).",
        ("fastapi", "uvicorn", "uvloop", "httptools"),
    ),
    Claim(
        "two-n-plus-one",
        "servers",
        "(2 x cores) + 1 workers serve most",
        (
            Figure("rate", "reads of one row on n = 2 cores: 2n + 1 workers against n, requests/s", AtLeast(1)),
            Figure("p95", "reads of one row on n = 2 cores, p95: n workers against 2n + 1", AtLeast(1)),
        ),
        "The formula is of synchronous workers, which wait; an async worker fills its core, so more of them only "
        "change places, hold more connections and need more memory.",
        "One worker for each usable core, by cgroup and affinity (`deploy/gunicorn.conf.py`, `workers_per_core`).",
        ("fastapi", "uvicorn", "asyncpg"),
    ),
    Claim(
        "memory",
        "servers",
        "A worker takes 40-100 MB",
        (
            Figure("minimal", "a worker of the least FastAPI application", Between(40, 100, "MB")),
            Figure("usual", "a worker with SQLAlchemy, two drivers and a pool", Between(40, 100, "MB")),
        ),
        "The imports are most of it; shared pages are divided among the workers here (proportional set size).",
        "Imports before the fork and a frozen heap, so workers share them (`preload_app` in "
        "`deploy/gunicorn.conf.py`).",
        ("fastapi", "pydantic", "sqlalchemy", "asyncpg"),
    ),
    Claim(
        "background-work",
        "concurrency",
        "Background work returns at once and does not touch other requests",
        (
            Figure("response", "p50 of a request with 50 ms of work: inline against background task", AtLeast(10)),
            Figure("loop", "p95 of `/livez`: no work against 4 tasks a second on the loop", AtLeast(0.8)),
            Figure("thread", "p95 of `/livez`: no work against 4 tasks a second in a thread", AtLeast(0.8)),
        ),
        "The response leaves before the work, but the work runs on the same loop, or in a thread under the same lock "
        "of the interpreter, and other requests wait for it.",
        "Jobs in processes of their own, accepted in the transaction of the write (`app/core/jobs/`, "
        "`background_jobs`).",
    ),
    Claim(
        "max-requests",
        "servers",
        "`max_requests` is needed against growing memory, and costs nothing",
        (
            Figure(
                "growth", "own memory of a worker: after 10x as many requests against after a warm-up", AtLeast(1.1)
            ),
            Figure("rate", "`max_requests` 5,000 against none, 2 workers, requests/s", AtLeast(0.95)),
        ),
        "Without a leak, memory stays, and each replaced worker costs imports, a warm-up and its open connections.",
        "`MAX_REQUESTS` is 0 until a team has a leak (`app/core/settings/server.py`).",
        ("fastapi", "uvicorn", "gunicorn"),
    ),
    Claim(
        "overall",
        "whole",
        "All of it together: 10x the requests and a tenth of the p95 (500 to 5,000 requests/s, 150 to 15 ms)",
        (
            Figure("rate", "9 reads to 1 write: the rendered service against `naive`, requests/s", AtLeast(10)),
            Figure("p95", "9 reads to 1 write, p95: `naive` against the rendered service", AtLeast(10)),
        ),
        "Most of it comes from fewer queries, a pool that fits, typed responses and the cache, and little from the "
        "server or its loop.",
        "The rendered service with its production settings and all guards (`python -m app serve`).",
        ("fastapi", "uvicorn", "gunicorn", "sqlalchemy", "asyncpg"),
    ),
)

BY_NAME = {claim.name: claim for claim in CLAIMS}
