"""Settings of the read replica."""

from pydantic import Field

from app.core.operations.capacity import CapacityError, Plan
from app.core.settings.database import DatabaseSettings, PostgresUrl
from app.core.settings.numbers import Seconds


class ReplicaSettings(DatabaseSettings):
    database_replica_url: PostgresUrl | None = Field(
        None,
        description="The read replica, as `DATABASE_URL`; if empty, the primary serves all reads.",
    )
    database_replica_max_lag_s: Seconds = Field(
        5.0, ge=1, description="Maximum lag of the replica; with more lag it gets no reads."
    )

    def check_replica(self, plan: Plan) -> None:
        """Check that each worker has a connection for the monitor of the replica and one for reads.

        Raises:
            CapacityError: when there are fewer than two.
        """
        if self.database_replica_url is not None and plan.pool_size < 2:
            raise CapacityError(
                "DATABASE_REPLICA_URL needs at least two connections for each worker, one of them "
                f"to monitor the replica, but {plan.arithmetic}. Raise DATABASE_MAX_CONNECTIONS or "
                "DATABASE_POOL_SIZE, or lower INSTANCES or WEB_CONCURRENCY."
            )
