"""A full local cache inside of one process: `python -m app.growth.probe ENTRIES` prints JSON.

- `hit_us`: CPU time of a hit through the whole stack, of a series each.
- `invalidation_us`: CPU time of ending one tag in this process.
- `bytes`: memory that the entries take of the system.
"""

import asyncio
import json
import random
import sys
from dataclasses import replace
from time import process_time

import psutil
import uvloop
from app.caches.probe import ask, stack
from app.core.cache import cache
from app.core.cache.responses.rules import stored_of

# Of the bodies, as `app.caches.router` has them.
PATH = "/caches/bodies/"
SAMPLE = 1000
SERIES = 5


async def fill(entries: int) -> None:
    """Keep copies of a real entry, each under the key of its own path and parsed as after a hit."""
    await ask(application, f"{PATH}0")
    ((first, (began, entry)),) = cache.local._entries.items()
    for number in range(1, entries):
        body = entry.body.replace(b"0" * 9, b"%09d" % number, 1)
        copy = replace(entry, body=body, parsed=None)
        stored_of(copy)
        cache.local.put(f"{first.removesuffix('0')}{number}", (f"body:{number}",), copy, began)


async def main(entries: int) -> None:
    cache.local.max_bytes = 2**40
    process = psutil.Process()
    before = process.memory_full_info().uss
    await fill(entries)
    taken = process.memory_full_info().uss - before
    rng = random.Random(0)
    paths = [f"{PATH}{rng.randrange(entries)}" for _ in range(SAMPLE)]
    hits_us = []
    for _ in range(SERIES + 1):
        started = process_time()
        for path in paths:
            await ask(application, path)
        hits_us.append((process_time() - started) / SAMPLE * 1e6)
    if sum(count for name, count in cache.counts.items() if name == ("local", "hit")) < SAMPLE * SERIES:
        raise SystemExit("the copies were not hit")
    started = process_time()
    for number in range(SAMPLE):
        cache.local.invalidate((f"body:{number % entries}",))
    invalidation_us = (process_time() - started) / SAMPLE * 1e6
    # The first series warms up.
    found = {"hit_us": hits_us[1:], "invalidation_us": invalidation_us, "bytes": taken}
    json.dump(found, sys.stdout)


application = stack(caching=True)

if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])), loop_factory=uvloop.new_event_loop)
