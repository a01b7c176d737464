"""The statements of the queue; the clock of the database decides all times."""

from typing import Any

from sqlalchemy import (
    ARRAY,
    Boolean,
    Float,
    Integer,
    Text,
    Uuid,
    and_,
    bindparam,
    case,
    cast,
    column,
    delete,
    extract,
    func,
    literal_column,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from app.core.database.prepared import PreparedRead, PreparedWrite
from app.core.jobs.outcome import MAX_DELIVERIES
from app.core.jobs.table import background_job as job
from app.core.jobs.table import background_job_count as count


def after(name: str) -> Any:
    """Return the time in so many seconds, a parameter of this name."""
    return func.now() + func.make_interval(0, 0, 0, 0, 0, 0, bindparam(name, type_=Float))


# Not a parameter, with which PostgreSQL could not use the index of waiting jobs.
_IS_WAITING = job.c.state == literal_column("'waiting'")
# Leases and outcomes belong to one delivery: after the lease, another worker may have the job.
DELIVERY = and_(
    job.c.id == bindparam("id"),
    job.c.attempts == bindparam("attempts", type_=Integer),
    job.c.deliveries == bindparam("deliveries", type_=Integer),
    _IS_WAITING,
)
_DELIVERIES = func.unnest(
    bindparam("ids", type_=ARRAY(Uuid)),
    bindparam("attempts", type_=ARRAY(Integer)),
    bindparam("deliveries", type_=ARRAY(Integer)),
).table_valued(column("id", Uuid), column("attempts", Integer), column("deliveries", Integer))
_SEVERAL = tuple_(job.c.id, job.c.attempts, job.c.deliveries).in_(
    select(_DELIVERIES.render_derived())
)
DELIVERED = (
    job.c.id,
    job.c.name,
    job.c.version,
    cast(job.c.arguments, Text).label("arguments"),
    job.c.key,
    job.c.request_id,
    job.c.attempts,
    job.c.deliveries,
    cast(extract("epoch", func.now() - job.c.created_at), Float).label("age_s"),
)

# Does nothing if a job has the same id, or the same name and key.
ADD = PreparedWrite(
    insert(job)
    .values(
        id=bindparam("id"),
        name=bindparam("name"),
        version=bindparam("version"),
        arguments=cast(bindparam("arguments", type_=Text), JSONB),
        key=bindparam("key"),
        request_id=bindparam("request_id"),
        due_at=after("delay_s"),
        attempts=bindparam("attempts"),
        state=bindparam("state"),
        error=bindparam("error"),
    )
    .on_conflict_do_nothing()
)

DUE = (
    select(job.c.id, job.c.deliveries, job.c.due_at)
    .where(_IS_WAITING, job.c.due_at <= func.now())
    .order_by(job.c.due_at)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_first = select(DUE.c.id, DUE.c.deliveries).order_by(DUE.c.due_at).limit(1).cte("first")
# A job whose processes ended may have ended them: its last delivery is without other jobs.
CLAIM = PreparedWrite(
    update(job)
    .where(
        job.c.id == DUE.c.id,
        case(
            (_first.c.deliveries < MAX_DELIVERIES - 1, DUE.c.deliveries < MAX_DELIVERIES - 1),
            else_=and_(bindparam("is_idle", type_=Boolean), DUE.c.id == _first.c.id),
        ),
    )
    .values(due_at=after("lease_s"), deliveries=job.c.deliveries + 1)
    .returning(*DELIVERED)
)
EXTEND = PreparedWrite(update(job).where(_SEVERAL).values(due_at=after("lease_s")))

SUCCEED = PreparedWrite(delete(job).where(_SEVERAL))
END = PreparedWrite(
    update(job)
    .where(DELIVERY)
    .values(
        state=bindparam("state"),
        attempts=bindparam("next_attempts", type_=Integer),
        deliveries=bindparam("next_deliveries", type_=Integer),
        due_at=after("delay_s"),
        error=func.coalesce(bindparam("error", type_=Text), job.c.error),
    )
)
FORGET = PreparedWrite(delete(job).where(job.c.state == "done", job.c.due_at < func.now()))
COUNT = PreparedWrite(
    insert(count)
    .values(outcome=bindparam("outcome"), count=bindparam("count"))
    .on_conflict_do_update(
        index_elements=["outcome"], set_={"count": count.c.count + bindparam("count")}
    )
)
# Whether an earlier interval of a periodic job has not ended.
WAITS = PreparedRead(
    select(literal_column("1").label("one"))
    .where(job.c.name == bindparam("name"), job.c.key != bindparam("key"), _IS_WAITING)
    .where(func.starts_with(job.c.key, "@every "))
    .limit(1)
)
NOW = PreparedRead(select(cast(extract("epoch", func.now()), Float).label("now_s")))
