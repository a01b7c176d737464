"""A breaker over the pool: while the database hangs, statements are refused at once.

A probe with a connection of its own runs while statements run and none ends. With slow statements,
locks and load, the database answers the probe, and nothing is refused.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from logging import getLogger

from sqlalchemy import literal_column, select

from app.core.database.engine import Database
from app.core.database.errors import driver_error
from app.core.database.prepared import PreparedRead
from app.core.settings.database import DatabaseSettings

logger = getLogger(__name__)

INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 1.0
PROBE_PARTS = 20
# A single failure may be a delay of this process.
FAILURES = 2

_PROBE = PreparedRead(select(literal_column("1").label("one")))


@asynccontextmanager
async def watching(database: Database, settings: DatabaseSettings) -> AsyncIterator[None]:
    """Refuse the statements of `database` while it hangs, during the block."""
    task = asyncio.create_task(_watch(database, settings))
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _watch(database: Database, settings: DatabaseSettings) -> None:
    gate, released = database.gate, 0
    while True:
        await asyncio.sleep(INTERVAL_S)
        if gate.in_use and gate.released == released:
            await _probe_until_it_answers(database, settings)
        released = gate.released


async def _probe_until_it_answers(database: Database, settings: DatabaseSettings) -> None:
    """Return when the database answers or refuses a probe."""
    gate, probe, failures = database.gate, Database(), 0
    probe.open(settings, pool_size=1)
    try:
        while await _hangs(probe):
            failures += 1
            if failures == FAILURES:
                gate.refusal = "The database does not answer."
                logger.error("The database does not answer: statements are refused")
            await asyncio.sleep(INTERVAL_S)
    finally:
        if gate.refusal:
            gate.refusal = ""
            logger.info("The database answers again")
        await probe.close()


async def _hangs(probe: Database) -> bool:
    answer = asyncio.create_task(probe.fetch(_PROBE, {}))
    try:
        # In parts, because a busy event loop is late for each of them: that time is not the
        # database's.
        for _ in range(PROBE_PARTS):
            await asyncio.wait([answer], timeout=PROBE_TIMEOUT_S / PROBE_PARTS)
        if not answer.done():
            return True
        # Statements get any other error at once as well.
        error = answer.exception()
        return error is not None and isinstance(driver_error(error), TimeoutError)
    finally:
        answer.cancel()
        await asyncio.wait([answer])
