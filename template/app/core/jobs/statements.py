"""The statements of the queue; the clock of the database decides all times."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy import bindparam, func
from sqlalchemy.dialects.postgresql import JSONB, insert

from app.core.database import PreparedRead, PreparedWrite
from app.core.jobs.table import background_job as job
from app.core.jobs.table import background_job_count as count

# The most runs of a job that ends its process, or blocks its event loop.
MAX_DELIVERIES = 3


def seconds(name: str) -> Any:
    """Return the interval of a parameter with this name."""
    return func.make_interval(0, 0, 0, 0, 0, 0, bindparam(name, type_=sa.Float))


def epoch_s(value: Any) -> Any:
    return sa.cast(sa.extract("epoch", value), sa.Float)


# Not a parameter, with which PostgreSQL could not use the index of waiting jobs.
IS_WAITING = job.c.state == sa.literal_column("'waiting'")
_deliveries = func.unnest(
    bindparam("ids", type_=sa.ARRAY(sa.Uuid)),
    bindparam("attempts", type_=sa.ARRAY(sa.Integer)),
    bindparam("deliveries", type_=sa.ARRAY(sa.Integer)),
).table_valued("id", "attempts", "deliveries")
# Leases and outcomes belong to one delivery: after the lease, another worker may have the job.
_IS_DELIVERED = sa.tuple_(job.c.id, job.c.attempts, job.c.deliveries).in_(
    sa.select(_deliveries.render_derived())
)
# The columns of a delivery.
DELIVERY = (
    job.c.id,
    job.c.name,
    job.c.version,
    sa.cast(job.c.arguments, sa.Text).label("arguments"),
    job.c.key,
    job.c.request_id,
    job.c.attempts,
    job.c.deliveries,
    epoch_s(func.now() - job.c.created_at).label("age_s"),
)

_plain = ("id", "name", "version", "key", "request_id", "attempts", "deliveries", "state", "error")
# Does nothing if a job has the same id, or the same name and key.
ADD = PreparedWrite(
    insert(job)
    .values({name: bindparam(name) for name in _plain})
    .values(
        arguments=sa.cast(bindparam("arguments", type_=sa.Text), JSONB),
        due_at=func.now() + seconds("delay_s"),
    )
    .on_conflict_do_nothing()
)

DUE = (
    sa.select(job.c.id, job.c.deliveries, job.c.due_at)
    .where(IS_WAITING, job.c.due_at <= func.now())
    .order_by(job.c.due_at)
    .limit(bindparam("limit", type_=sa.Integer))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_first = sa.select(DUE.c.id, DUE.c.deliveries).order_by(DUE.c.due_at).limit(1).cte("first")
# A job whose processes ended may have ended them: its last delivery is without other jobs.
CLAIM = PreparedWrite(
    sa.update(job)
    .where(
        job.c.id == DUE.c.id,
        sa.case(
            (_first.c.deliveries < MAX_DELIVERIES - 1, DUE.c.deliveries < MAX_DELIVERIES - 1),
            else_=sa.and_(bindparam("is_idle", type_=sa.Boolean), DUE.c.id == _first.c.id),
        ),
    )
    .values(due_at=func.now() + seconds("lease_s"), deliveries=job.c.deliveries + 1)
    .returning(*DELIVERY)
)
EXTEND = PreparedWrite(
    sa.update(job).where(_IS_DELIVERED).values(due_at=func.now() + seconds("lease_s"))
)
SUCCEED = PreparedWrite(sa.delete(job).where(_IS_DELIVERED))
END = PreparedWrite(
    sa.update(job)
    .where(_IS_DELIVERED)
    .values(
        state=bindparam("state"),
        attempts=bindparam("next_attempts", type_=sa.Integer),
        deliveries=bindparam("next_deliveries", type_=sa.Integer),
        due_at=func.now() + seconds("delay_s"),
        error=func.coalesce(bindparam("error", type_=sa.Text), job.c.error),
    )
)
FORGET = PreparedWrite(sa.delete(job).where(job.c.state == "done", job.c.due_at < func.now()))
COUNT = PreparedWrite(
    insert(count)
    .values(outcome=bindparam("outcome"), count=bindparam("count"))
    .on_conflict_do_update(
        index_elements=["outcome"], set_={"count": count.c.count + bindparam("count")}
    )
)
# Whether an earlier interval of a periodic job has not ended.
WAITS = PreparedRead(
    sa.select(sa.literal_column("1").label("one"))
    .where(job.c.name == bindparam("name"), job.c.key != bindparam("key"), IS_WAITING)
    .where(func.starts_with(job.c.key, "@every "))
    .limit(1)
)
NOW = PreparedRead(sa.select(epoch_s(func.now()).label("now_s")))
