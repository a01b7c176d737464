"""`python -m app cache`: the entries in the server, and invalidation by hand, for all workers."""

import asyncio
import sys
from collections.abc import Sequence

from app.core.cache.store import cache
from app.core.settings.cache import CacheSettings

USAGE = "cache: use `show KEY` or `invalidate TAG...`."
# The part of a body that is shown.
SHOWN_BYTES = 1000


def run(settings: CacheSettings, action: str, names: Sequence[str]) -> None:
    """Run one action; exit with one line that names the reason when it fails."""
    asyncio.run(_run(settings, action, names))


async def _run(settings: CacheSettings, action: str, names: Sequence[str]) -> None:
    await cache.open(settings)
    try:
        if not cache.server.is_up:
            sys.exit(f"cache: {cache.server.state}.")
        match action, names:
            case "show", [key]:
                entry = await cache.shared.stored(key)
                if entry is None:
                    sys.exit(f"cache: no entry under {key!r}.")
                print(f"loaded {entry.age_s():.1f} s ago, fresh for {entry.ttl_s:.1f} s")
                print(entry.body[:SHOWN_BYTES].decode(errors="backslashreplace"))
            case "invalidate", [_, *_]:
                await cache.invalidate(*names)
                if cache.server.has_pending:
                    sys.exit("cache: the server did not confirm the invalidation.")
                print(f"invalidated for all workers: {', '.join(names)}")
            case _:
                sys.exit(USAGE)
    finally:
        await cache.close()
