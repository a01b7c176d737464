"""What rounds of requests do not show of the cache: the cost of its middleware, its memory, and a stampede.

The first two are had inside of one process, by `rendered/app/caches/probe.py`. The third asks a running service of two
workers for one response that many clients miss at once, and has the database count the queries.
"""

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, NamedTuple

import asyncpg

from benchmarks.harness import services
from benchmarks.harness.environment import Environment
from benchmarks.harness.http1 import Response
from benchmarks.harness.results import Probe
from benchmarks.harness.scenarios import Request
from benchmarks.harness.services import SERVICES, ServiceDied

TIMEOUT_S = 300.0
ENTRIES = 10_000
CLIENTS = 500
WORKERS = 2
# As the endpoint has it, and enough that it has ended.
TTL_S = 2.0
EXPIRED_S = 1.1 * TTL_S
SETTLED_S = 0.5
COUNTER = "stampede"


class Stampede(NamedTuple):
    """How many queries one took, when its clients had their answers, and how many had none of 200."""

    queries: int
    latencies_s: Sequence[float]
    errors: int


def all_of(environment: Environment, rounds: int, say: Callable[[str], None]) -> list[Probe]:
    """Probe the rendered service that has its cache: the more often, the more rounds a run has.

    Raises:
        ServiceDied: when it does not get to the end.
    """
    say("probing: the middleware and the memory of the cache")
    found = in_process(environment, 10 * rounds)
    say(f"probing: {CLIENTS} clients at once")
    return found + stampede(environment, rounds + 1)


def in_process(environment: Environment, repetitions: int) -> list[Probe]:
    try:
        process = subprocess.run(
            [sys.executable, "-m", "app.caches.probe", str(repetitions)],
            cwd=environment.renderings.directory("valkey"),
            env={**os.environ, **environment.variables, "CURSOR_SECRET": services.CURSOR_SECRET},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=True,
        )
    except subprocess.SubprocessError as error:
        raise ServiceDied(f"app.caches.probe: {error}\n{getattr(error, 'stderr', '')}") from error
    found = result(process.stdout)
    return [
        Probe(
            "middleware",
            "CPU time that caching adds to a request of a route that is not cached",
            "us",
            tuple(found["middleware_us"]),
            at_most=10,
        ),
        Probe(
            "memory",
            f"memory of {ENTRIES:,} responses of 300 bytes in the local cache",
            "MB",
            (found["entries_bytes"] / 1e6,),
        ),
    ]


def result(output: str) -> Any:
    """Return what a probe printed last; its service logs before, such as a call that blocked the event loop."""
    return json.loads(output.splitlines()[-1])


def stampede(environment: Environment, stampedes: int) -> list[Probe]:
    environment.pin(None)
    started = services.running(
        SERVICES["rendered"],
        workers=WORKERS,
        cached=True,
        directory=environment.renderings.directory("valkey"),
        variables=environment.variables,
        workspace=environment.workspace,
    )
    with started as service:
        service.wait_until_ready()
        try:
            found = asyncio.run(_stampedes(stampedes, service.port, environment.variables["DATABASE_URL"]))
        except OSError as error:
            service.check()
            raise ServiceDied(f"a stampede did not get to its end: {error!r}") from error
        service.check()
    return stampede_probes(found)


def stampede_probes(found: Sequence[Stampede]) -> list[Probe]:
    crowd = f"{CLIENTS} clients at once for one expired response of {WORKERS} workers"
    latencies = [sorted(one.latencies_s) for one in found if one.latencies_s]
    return [
        Probe("stampede", f"queries that {crowd} cause", "queries", tuple(one.queries for one in found), 1, every=True),
        Probe(
            "stampede-errors",
            "of them, who had no answer",
            "clients",
            tuple(one.errors for one in found),
            0,
            every=True,
        ),
        *(
            Probe(
                f"stampede-p{percent}",
                f"p{percent} of their answers; the query takes 100 ms",
                "ms",
                tuple(1e3 * one[math.ceil(percent / 100 * len(one)) - 1] for one in latencies),
            )
            for percent in (50, 99)
        ),
    ]


async def _stampedes(stampedes: int, port: int, database_url: str) -> list[Stampede]:
    database = await asyncpg.connect(database_url)
    clients: list[Client] = []
    try:
        # A sequence, because rows that are there already are told by tables.
        await database.execute(f"CREATE SEQUENCE IF NOT EXISTS {COUNTER}")
        clients = [await connected(port) for _ in range(CLIENTS)]
        alive = Request("GET", "/livez").encoded()
        await asyncio.gather(*(client.ask(alive) for client in clients))
        return [await _stampede(clients, f"/caches/stampede/{number}", database) for number in range(stampedes)]
    finally:
        for client in clients:
            client.close()
        await database.execute(f"DROP SEQUENCE IF EXISTS {COUNTER}")
        await database.close()


async def _stampede(clients: Sequence["Client"], path: str, database: Any) -> Stampede:
    request = Request("GET", path).encoded()
    await clients[0].ask(request)
    # Long enough as well for a worker that left the cache alone in the last one to have come back to it.
    await asyncio.sleep(EXPIRED_S)
    before = await _count(database)
    async with asyncio.timeout(TIMEOUT_S):
        answers = await asyncio.gather(*(client.ask(request) for client in clients))
    # Whatever still runs without an answer to give.
    await asyncio.sleep(SETTLED_S)
    latencies_s = [seconds for status, seconds in answers if status == HTTPStatus.OK]
    return Stampede(await _count(database) - before, latencies_s, len(answers) - len(latencies_s))


async def _count(database: Any) -> int:
    return int(await database.fetchval(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {COUNTER}"))  # noqa: S608


class Client:
    """One connection, with one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, request: bytes) -> tuple[int, float]:
        """Send a request; returns the status of its answer, and after how many seconds that was complete.

        Raises:
            OSError: when the connection ends before.
        """
        started = perf_counter()
        self._writer.write(request)
        response = Response()
        while not response.feed(data := await self._reader.read(65_536)):
            if not data:
                raise ConnectionResetError("a connection ended before its answer")
        return response.status, perf_counter() - started

    def close(self) -> None:
        self._writer.close()


async def connected(port: int) -> Client:
    return Client(*await asyncio.open_connection("127.0.0.1", port))
