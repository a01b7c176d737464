"""What caching costs inside of one process, without a server: `python -m app.caches.probe` prints JSON.

The number of repetitions may follow; without it there are 40.

- `middleware_us`: CPU time that the response cache adds to a request of a route that is not cached,
  beside the headers that every service has; each value is the difference of two series, one after
  the other.
- `telemetry_us`, `edge_us`: the same for the telemetry with its metrics, and for the whole edge.
- `entries_bytes`: memory of ENTRIES responses in the local cache, as Python's allocators count it.
"""

import asyncio
import gc
import json
import sys
import tracemalloc
from collections.abc import Callable
from time import process_time
from typing import Any

import uvloop
from app.core.cache import cache
from app.core.cache.conditional import CacheHeaders
from app.core.cache.responses.middleware import ResponseCache
from app.core.telemetry.requests import Telemetry
from app.main import app
from starlette.middleware import Middleware

# Short and many: what else the machine does meets a few of them.
REPETITIONS = 40
REQUESTS = 400
ENTRIES = 10_000


def stack(*, caching: bool) -> Any:
    """The application with all of its middleware; without `caching`, its response cache does nothing but add headers.

    So does a service without a cache: `Cache-Control` and `ETag` are no cost of caching.
    """
    every = app.user_middleware
    if sum(issubclass(one.cls, ResponseCache) for one in every) != 1:
        raise SystemExit("one middleware of the application was to be the one that caches")
    if not caching:
        headers = Middleware(CacheHeaders)
        app.user_middleware = [
            headers if issubclass(one.cls, ResponseCache) else one for one in every
        ]
    try:
        return app.build_middleware_stack()
    finally:
        app.user_middleware = every


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def ask(application: Any, path: str) -> None:
    """One GET, as uvicorn hands it over.

    Raises:
        RuntimeError: when it is not answered with 200.
    """
    statuses = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 80),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "method": "GET",
        "root_path": "",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"accept", b"application/json")],
        "state": {},
        "app": app,
    }
    await application(scope, receive, send)
    if statuses != [200]:
        raise RuntimeError(f"{path} was answered with {statuses}")


async def cpu_us(application: Any) -> float:
    started = process_time()
    for _ in range(REQUESTS):
        await ask(application, "/caches/nothing")
    return (process_time() - started) / REQUESTS * 1e6


def edged(keeps: Callable[[Middleware], bool]) -> Any:
    """The application with that part of its edge."""
    every = app.edge
    app.edge = [one for one in every if keeps(one)]
    try:
        return app.build_middleware_stack()
    finally:
        app.edge = every


async def difference_us(full: Any, bare: Any, repetitions: int) -> list[float]:
    await cpu_us(full)
    await cpu_us(bare)
    found = []
    for number in range(repetitions):
        if number % 2:
            less, more = await cpu_us(bare), await cpu_us(full)
        else:
            more, less = await cpu_us(full), await cpu_us(bare)
        found.append(more - less)
    return found


async def entries_bytes() -> int:
    application = stack(caching=True)
    # Without a server: what is loaded is kept here only.
    cache.local.max_bytes = 2**30
    await ask(application, "/caches/bodies/0")
    tracemalloc.start()
    for number in range(1, ENTRIES + 1):
        # The second time it is a hit, and its headers are parsed.
        for _ in range(2):
            await ask(application, f"/caches/bodies/{number}")
    gc.collect()
    full, _ = tracemalloc.get_traced_memory()
    cache.local.clear()
    gc.collect()
    return full - tracemalloc.get_traced_memory()[0]


async def main(repetitions: int) -> None:
    full = stack(caching=True)
    found = {
        "middleware_us": await difference_us(full, stack(caching=False), repetitions),
        "telemetry_us": await difference_us(
            full, edged(lambda one: one.cls is not Telemetry), repetitions
        ),
        "edge_us": await difference_us(full, edged(lambda one: False), repetitions),
        "entries_bytes": await entries_bytes(),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else REPETITIONS), loop_factory=uvloop.new_event_loop)
