"""What jobs cost inside of a process of the service: `python -m app.work.probe NAME` prints JSON.

- `enqueue`: CPU time of a write transaction (`write_us`), the time that a job adds to it
  (`enqueue_us`, with the relay if there is one), and the longest pause of the event loop meanwhile.
- `run COUNT`: the rate and the CPU time of jobs that run in this process.
- `pools`: CPU time that a call costs in this process (`thread_us`, `process_us`), its time until the
  result (`thread_ms`, `process_ms`), and the longest pause of the event loop while a computation of
  COMPUTATION_S runs on the loop, in a thread and in a process (`pause_inline_ms`, ...).
- `client URL`: CPU time of a call to a server at that address with our client, aiohttp and httpx.
- `open`: open the resources of a web process until the end of stdin; the relay is one of them.
"""

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter, process_time
from typing import Any

import aiohttp
import httpx
import uvloop
from app.core.concurrency import run_in_process, run_in_thread
from app.core.database import PreparedRead, WriteSession
from app.core.http_client import http
from app.core.jobs import enqueue
from app.core.operations.lifecycle import resources
from app.resources import RESOURCES
from app.settings import get_settings
from app.work import sums
from app.work.jobs import counts, nothing
from pydantic import BaseModel
from sqlalchemy import literal, select

REPETITIONS = 12
WRITES = 50
TICK_S = 0.001
COMPUTATION_S = 0.05
ONE = PreparedRead(select(literal(1).label("one")))


class Forecast(BaseModel):
    city: str
    celsius: float


@asynccontextmanager
async def pauses() -> AsyncIterator[list[float]]:
    """Yield a list, to which the end of the block adds the longest pause of the loop in ms."""
    longest_s = 0.0

    async def tick() -> None:
        nonlocal longest_s
        while True:
            began = perf_counter()
            await asyncio.sleep(TICK_S)
            longest_s = max(longest_s, perf_counter() - began - TICK_S)

    task = asyncio.create_task(tick())
    await asyncio.sleep(TICK_S)
    found: list[float] = []
    yield found
    # A pause at the end is measured when the loop runs again.
    await asyncio.sleep(TICK_S)
    task.cancel()
    found.append(longest_s * 1e3)


async def writes(*, enqueues: bool) -> tuple[float, float]:
    """Return the CPU time of one transaction in us, and the longest pause of the loop in ms."""
    began = process_time()
    async with pauses() as longest:
        for number in range(WRITES):
            async with WriteSession() as session:
                await session.fetch(ONE)
                if enqueues:
                    await enqueue(session, nothing, number)
    return (process_time() - began) / WRITES * 1e6, longest[0]


async def measure_enqueue() -> dict[str, Any]:
    found: dict[str, list[float]] = {"write_us": [], "enqueue_us": [], "pause_ms": []}
    for number in range(-1, REPETITIONS):
        order = (False, True) if number % 2 else (True, False)
        series = {enqueues: await writes(enqueues=enqueues) for enqueues in order}
        if number >= 0:  # The first is a warm-up.
            found["write_us"].append(series[False][0])
            found["enqueue_us"].append(series[True][0] - series[False][0])
            found["pause_ms"].append(series[True][1])
    return found


async def measure_run(count: int) -> dict[str, Any]:
    counts["nothing"], began, cpu = 0, perf_counter(), process_time()
    for number in range(count):
        await enqueue(None, nothing, number)
    while counts["nothing"] < count:
        await asyncio.sleep(TICK_S)
    return {
        "rate": count / (perf_counter() - began),
        "cpu_us": (process_time() - cpu) / count * 1e6,
    }


async def inline(function: Callable[..., Any], value: float) -> Any:
    return function(value)


async def measure_pools() -> dict[str, Any]:
    found: dict[str, list[float]] = defaultdict(list)
    places = {"inline": inline, "thread": run_in_thread, "process": run_in_process}
    for number in range(-1, REPETITIONS):
        for place, call in list(places.items())[:: -1 if number % 2 else 1]:
            cpu, began = process_time(), perf_counter()
            for value in range(WRITES):
                await call(sums.nothing, value)
            cpu, taken = process_time() - cpu, perf_counter() - began
            async with pauses() as longest:
                await call(sums.compute, COMPUTATION_S)
            if number >= 0:
                found[f"{place}_us"].append(cpu / WRITES * 1e6)
                found[f"{place}_ms"].append(taken / WRITES * 1e3)
                found[f"pause_{place}_ms"].append(longest[0])
    return found


async def measure_client(url: str) -> dict[str, Any]:
    found: dict[str, list[float]] = defaultdict(list)
    async with aiohttp.ClientSession() as bare, httpx.AsyncClient() as other:

        async def ours() -> None:
            await http.get(url, into=Forecast)

        async def by_aiohttp() -> None:
            async with bare.get(url) as response:
                Forecast.model_validate_json(await response.read())

        async def by_httpx() -> None:
            Forecast.model_validate_json((await other.get(url)).content)

        clients = {"ours_us": ours, "aiohttp_us": by_aiohttp, "httpx_us": by_httpx}
        for number in range(-1, REPETITIONS):
            for name, call in list(clients.items())[:: -1 if number % 2 else 1]:
                began = process_time()
                for _ in range(WRITES):
                    await call()
                if number >= 0:
                    found[name].append((process_time() - began) / WRITES * 1e6)
    return found


async def stay() -> dict[str, Any]:
    await asyncio.to_thread(sys.stdin.read)
    return {}


async def main() -> None:
    name, *values = sys.argv[1:]
    async with resources(get_settings(), RESOURCES, pool_size=4):
        if name == "enqueue":
            found = await measure_enqueue()
        elif name == "run":
            found = await measure_run(int(values[0]))
        elif name == "pools":
            found = await measure_pools()
        elif name == "client":
            found = await measure_client(values[0])
        else:
            found = await stay()
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    uvloop.run(main())
