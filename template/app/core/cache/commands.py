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
        if not await cache.server.ping():
            sys.exit(f"cache: {await cache.server.state()}.")
        match action, names:
            case "show", [key]:
                await _show(key)
            case "invalidate", [_, *_]:
                await cache.invalidate(*names)
                if cache.server.has_pending:
                    sys.exit("cache: the server did not confirm the invalidation.")
                print(f"invalidated for all workers: {', '.join(names)}")
            case _:
                sys.exit(USAGE)
    finally:
        await cache.close()


async def _show(key: str) -> None:
    entry = await cache.shared.stored(key)
    if entry is None:
        sys.exit(f"cache: no entry under {key!r}.")
    age_s = entry.age_s()
    print(f"{entry.freshness().value}, unless it was invalidated; loaded {age_s:.1f} s ago")
    print(
        f"fresh for {entry.ttl_s:.1f} s, then stale-while-revalidate for "
        f"{entry.stale_while_revalidate_s:g} s and stale-if-error for {entry.stale_if_error_s:g} s"
    )
    print(f"{len(entry.meta)} bytes of meta data, {len(entry.body)} bytes of body:")
    print(entry.body[:SHOWN_BYTES].decode(errors="backslashreplace"))
