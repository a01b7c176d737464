"""Routes each read to the replica or the primary; a read that fails on the replica is repeated."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from logging import getLogger
from time import monotonic
from typing import NamedTuple, TypeVar

import asyncpg
from sqlalchemy.exc import DBAPIError

from app.core.database.engine import Database
from app.core.database.errors import Disconnected
from app.core.database.gate import Gate
from app.core.database.replica.consistency import current, is_fresh
from app.core.database.replica.decisions import Failure, Route, failure_of, goes_on, route
from app.core.database.replica.monitor import Monitor
from app.core.http.problems import Unavailable
from app.core.settings.replica import ReplicaSettings
from app.core.telemetry.activity import add_statement

Result = TypeVar("Result")

logger = getLogger(__name__)

# The written or flushed position may still be before the commit.
_POSITION = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint"
_POSITION_TIMEOUT_S = 1.0


class Pair(NamedTuple):
    """A primary, its replica, and the gate of the replica's reads that the primary takes over."""

    primary: Database
    monitor: Monitor
    share: Gate


class Replica:
    """The replica of this process; without an open one, the primary answers every read."""

    def __init__(self) -> None:
        self._pair: Pair | None = None

    @asynccontextmanager
    async def opened(
        self, settings: ReplicaSettings, primary: Database, *, pool_size: int
    ) -> AsyncIterator[None]:
        """Use the replica of the settings, if there is one, for reads from `primary`.

        It takes `pool_size` connections of the replica, at least two: one is for the monitor.
        """
        if settings.database_replica_url is None:
            yield
            return
        monitor = Monitor(settings, primary, pool_size=pool_size)
        # The waits for the replica and the primary together stay within a second.
        share = Gate(max(1, pool_size // 2), timeout_s=settings.database_pool_timeout_s / 2)
        async with monitor.watching():
            self._pair = Pair(primary, monitor, share)
            try:
                yield
            finally:
                self._pair = None

    def checks(self) -> dict[str, str]:
        """Return, for `/readyz`, `ok` or why the replica is left out; nothing without a replica."""
        return {"replica": self._pair.monitor.problem or "ok"} if self._pair else {}

    async def read(
        self, primary: Database, read: Callable[[Database], Awaitable[Result]]
    ) -> Result:
        """Run `read` on the server that has to answer it, at most twice.

        Raises:
            Busy: when all connections that it may use are taken.
            Unavailable: when no server can answer.
        """
        pair = self._pair

        async def on_primary() -> Result:
            try:
                return await read(primary)
            except Disconnected:
                return await read(primary)

        if pair is None or primary is not pair.primary:
            return await on_primary()
        consistency = current()
        to = route(
            in_use=pair.monitor.problem is None,
            caught_up=consistency.token <= pair.monitor.replayed,
            has_written=consistency.has_written,
            fresh=is_fresh(),
        )
        if to is Route.PRIMARY:
            return await on_primary()
        if to is Route.REPLICA:
            # As on the primary, a task that holds a connection may not take another.
            primary.gate.refuse_holder()
            started_s = monotonic()
            try:
                return await read(pair.monitor.reads)
            except (Unavailable, DBAPIError) as error:
                failure = failure_of(error)
                if failure is Failure.OUTAGE:
                    pair.monitor.leave_out(str(error))
                if not goes_on(
                    failure,
                    left_out=pair.monitor.problem is not None,
                    seen_since=pair.monitor.seen_s > started_s,
                ):
                    raise
        async with pair.share:
            return await on_primary()

    async def committed(self, primary: Database, driver: asyncpg.Connection) -> None:
        """Note that this request has committed on `driver`, and the commit's LSN; never raises."""
        if self._pair is None or primary is not self._pair.primary:
            return
        consistency = current()
        consistency.has_written = True
        add_statement(_POSITION)
        try:
            consistency.commit = await driver.fetchval(_POSITION, timeout=_POSITION_TIMEOUT_S)
        except Exception as error:
            # The write is committed. The client's next read may not see it yet.
            logger.warning("A response has no commit token: %r", error)


replica = Replica()
