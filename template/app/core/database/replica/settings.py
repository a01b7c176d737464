"""Where the read replica is, and how far behind it may be."""

from pydantic import Field

from app.core.database.settings import DatabaseSettings, PostgresUrl
from app.core.operations.capacity import CapacityError, Plan


class ReplicaSettings(DatabaseSettings):
    database_replica_url: PostgresUrl | None = Field(
        None,
        description="A read replica, as `DATABASE_URL`; without it the primary serves all reads.",
    )
    database_replica_max_lag_s: float = Field(
        5.0, ge=1, description="How far behind the replica may be; beyond that it is left out."
    )

    def check_replica(self, plan: Plan) -> None:
        """Of the connections of each worker, the replica's monitor takes one.

        Raises:
            CapacityError: when that leaves none for reads.
        """
        if self.database_replica_url is not None and plan.pool_size < 2:
            raise CapacityError(
                "DATABASE_REPLICA_URL needs two connections for each worker at least, one of them "
                f"to watch the replica, but {plan.arithmetic}. Raise DATABASE_MAX_CONNECTIONS or "
                "DATABASE_POOL_SIZE, or lower INSTANCES or WEB_CONCURRENCY."
            )
