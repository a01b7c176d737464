"""Monitors a replica: whether it answers, its position in the log, and its lag.

Each worker runs one task for the primary and one for the replica. Every wait in them has a time
limit, and they continue after every error.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from logging import getLogger
from time import monotonic
from typing import Any
from weakref import WeakSet

import asyncpg
from sqlalchemy import Label, event, literal_column, select

from app.core.database.engine import Database
from app.core.database.prepared import PreparedRead
from app.core.database.replica.decisions import Lag, problem_of
from app.core.http.problems import Unavailable
from app.core.settings.replica import ReplicaSettings

logger = getLogger(__name__)

# Shorter than the pool timeout, so that a read that timed out can tell load from a hang.
INTERVAL_S = 0.25
PROBE_TIMEOUT_S = 1.0

_CLUSTER: Label[int] = literal_column("(SELECT system_identifier FROM pg_control_system())").label(
    "cluster"
)
_PRIMARY = PreparedRead(
    select(literal_column("(pg_current_wal_lsn() - '0/0')::bigint").label("position"), _CLUSTER)
)
_REPLICA = PreparedRead(
    select(
        literal_column("pg_is_in_recovery()").label("is_replica"),
        literal_column("(pg_last_wal_replay_lsn() - '0/0')::bigint").label("replayed"),
        _CLUSTER,
    )
)


class Monitor:
    """The state of the replica as this process knows it.

    `problem` says why the replica is left out, or is None; `replayed` is the position in the log
    up to which it shows the writes; `seen_s` is the `monotonic` time of its last answer.
    """

    def __init__(self, settings: ReplicaSettings, primary: Database, *, pool_size: int) -> None:
        self.problem: str | None = "not seen yet"
        self.replayed = 0
        self.seen_s = 0.0
        self._primary = primary
        self._max_lag_s = settings.database_replica_max_lag_s
        self._lag = Lag(self._max_lag_s)
        self._cluster: int | None = None
        self._failures = 0
        self._connections: WeakSet[asyncpg.Connection] = WeakSet()
        there = {"database_url": settings.database_replica_url}
        self.reads = self._open(settings.model_copy(update=there), pool_size=pool_size - 1)
        # A connection of its own: with an exhausted pool, load would look like an outage.
        limits = {
            "database_connect_timeout_s": PROBE_TIMEOUT_S,
            "database_statement_timeout_s": PROBE_TIMEOUT_S,
        }
        self._probe = self._open(settings.model_copy(update=there | limits), pool_size=1)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Monitor during the block; then close all connections to the replica."""
        looks = (self._look_at_primary, self._look_at_replica)
        tasks = [asyncio.create_task(_again_and_again(look)) for look in looks]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            # Otherwise closing waits for a server that hangs.
            self._hang_up()
            await self._probe.close()
            await self.reads.close()

    def leave_out(self, problem: str) -> None:
        """Send the replica no reads until it answers the monitor again."""
        if problem != self.problem:
            logger.warning("The replica is left out: %s", problem)
        self.problem = problem

    def _open(self, settings: ReplicaSettings, *, pool_size: int) -> Database:
        database = Database()
        database.open(settings, pool_size=pool_size, variable="DATABASE_REPLICA_URL")

        @event.listens_for(database.engine.sync_engine, "connect")
        def opened(dbapi: Any, _: object) -> None:
            self._connections.add(dbapi.driver_connection)

        return database

    def _hang_up(self) -> None:
        """Abort all connections to the replica, so that reads that hang fail."""
        for connection in list(self._connections):
            connection.terminate()

    async def _look_at_primary(self) -> None:
        (row,) = await self._primary.fetch(_PRIMARY, {})
        self._cluster = row["cluster"]
        self._lag.primary_is_at(row["position"], monotonic())

    async def _look_at_replica(self) -> None:
        try:
            (row,) = await self._probe.fetch(_REPLICA, {})
        except Exception as error:
            self.leave_out(error.detail if isinstance(error, Unavailable) else repr(error))
            self._failures += 1
            # A single failure may be a delay of this process.
            if self._failures > 1:
                self._hang_up()
            return
        self._failures = 0
        self.seen_s = monotonic()
        self.replayed = row["replayed"] or 0
        problem = problem_of(
            is_replica=row["is_replica"],
            same_cluster=self._cluster in (None, row["cluster"]),
            lag_s=self._lag.seconds(self.replayed),
            max_lag_s=self._max_lag_s,
        )
        if problem:
            self.leave_out(problem)
        elif self.problem:
            logger.info("The replica is in use")
            self.problem = None


async def _again_and_again(look: Callable[[], Awaitable[None]]) -> None:
    failure = ""
    while True:
        try:
            await look()
            failure = ""
        except Exception as error:
            if repr(error) != failure:
                failure = repr(error)
                logger.warning("%s failed: %s", look.__name__, failure)
        await asyncio.sleep(INTERVAL_S)
