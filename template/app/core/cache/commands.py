"""`python -m app cache`: what the server keeps, and invalidation by hand, for all workers."""

import asyncio
import sys
import time
from collections.abc import Sequence

from app.core.cache.settings import CacheSettings
from app.core.cache.store import cache

USAGE = "cache: say `show KEY`, `invalidate TAG...` or `stats`."
# Of the server, not a read.
FAILURE = "shared failure"
# Of a body, as text.
SHOWN_BYTES = 1000


def run(settings: CacheSettings, action: str, names: Sequence[str]) -> None:
    """Do what is asked, or end with one line that says why not."""
    asyncio.run(_run(settings, action, names))


async def _run(settings: CacheSettings, action: str, names: Sequence[str]) -> None:
    await cache.open(settings)
    try:
        if not await cache.ping():
            sys.exit("cache: the server does not answer in time.")
        match action, names:
            case "show", [key]:
                await _show(key)
            case "invalidate", [_, *_]:
                await cache.invalidate(*names)
                if cache.pending:
                    sys.exit("cache: the server did not take it.")
                print(f"invalidated for all workers: {', '.join(names)}")
            case "stats", []:
                counts = await cache.counted()
                if not counts:
                    print("no reads yet")
                reads = sum(count for name, count in counts.items() if name != FAILURE)
                for name, count in counts.items():
                    share = "" if name == FAILURE else f" ({count / reads:.1%})"
                    print(f"{name}: {count}{share}")
            case _:
                sys.exit(USAGE)
    finally:
        await cache.close()


async def _show(key: str) -> None:
    entry = await cache.stored(key)
    if entry is None:
        sys.exit(f"cache: there is nothing under {key!r}.")
    now = time.time()
    age_s = entry.age_s(now)
    print(f"{entry.freshness(now).value}, unless invalidated since it was loaded {age_s:.1f} s ago")
    windows = entry.ttl_s, entry.stale_s, entry.error_s
    print("fresh for {:.1f} s, then stale for {:g} s and spare for {:g} s".format(*windows))
    print(f"{len(entry.meta)} bytes of meta data, {len(entry.body)} bytes of body:")
    print(entry.body[:SHOWN_BYTES].decode(errors="backslashreplace"))
