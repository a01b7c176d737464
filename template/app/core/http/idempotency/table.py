"""The table of stored answers; the clock of the database decides when they expire."""

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from app.core.database import PreparedRead, PreparedWrite
from app.core.database.models import core_metadata

# The expired answers that one request deletes at most.
MAX_DELETED = 10

answer = sa.Table(
    "idempotent_answer",
    core_metadata,
    # Of the caller, the route and the key.
    sa.Column("id", sa.LargeBinary, primary_key=True),
    # Of the path, the query and the body.
    sa.Column("fingerprint", sa.LargeBinary, nullable=False),
    sa.Column("status", sa.SmallInteger, nullable=False),
    # Names and values, in turn.
    sa.Column("headers", sa.ARRAY(sa.Text), nullable=False),
    # NULL if it is not stored.
    sa.Column("body", sa.LargeBinary),
    sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
    sa.Index("ix_idempotent_answer_expires_at", "expires_at"),
)

_id = sa.bindparam("id", type_=sa.LargeBinary)
_lock = sa.func.pg_try_advisory_xact_lock(sa.bindparam("lock", type_=sa.BigInteger))
# It does not wait, and ends with the transaction.
_claim = sa.select(_lock.label("is_locked")).subquery("claim")
CLAIM = PreparedRead(
    sa.select(
        _claim.c.is_locked, answer.c.fingerprint, answer.c.status, answer.c.headers, answer.c.body
    ).select_from(
        _claim.outerjoin(answer, (answer.c.id == _id) & (answer.c.expires_at > sa.func.now()))
    )
)
_expired = (
    sa.select(answer.c.id)
    .where(answer.c.expires_at <= sa.func.now(), answer.c.id != _id)
    .order_by(answer.c.expires_at)
    .limit(sa.literal_column(str(MAX_DELETED)))
    .with_for_update(skip_locked=True)
)
# The array is read once; a join could evaluate LIMIT again for each row.
_ids = sa.func.array(_expired.scalar_subquery())
_insert = insert(answer).values(
    {name: sa.bindparam(name) for name in ("id", "fingerprint", "status", "headers", "body")}
    | {"expires_at": sa.func.now() + sa.bindparam("lifetime", type_=sa.Interval)}
)
# Returns no row if another transaction has stored an answer in the meantime.
STORE = PreparedWrite(
    _insert.on_conflict_do_update(
        index_elements=["id"],
        set_={column.key: column for column in _insert.excluded if column.key != "id"},
        where=answer.c.expires_at <= sa.func.now(),
    )
    .returning(answer.c.status)
    .add_cte(sa.delete(answer).where(answer.c.id == sa.any_(_ids)).cte("expired"))
)
