"""The tables of background jobs."""

from sqlalchemy import BigInteger, Column, DateTime, Index, Integer, Table, Text, Uuid, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.schema import UniqueConstraint

from app.core.database.models import core_metadata

background_job = Table(
    "background_job",
    core_metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("arguments", JSONB, nullable=False),
    Column("key", Text),
    Column("request_id", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    # The end of a lease, if a process has the job; the end of its key, if it is done.
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("deliveries", Integer, nullable=False, server_default="0"),
    Column("state", Text, nullable=False, server_default="waiting"),
    Column("error", Text),
    UniqueConstraint("name", "key"),
    # Also for the failed jobs, which are counted at each scrape.
    Index("ix_background_job_state", "state", "due_at"),
)

background_job_count = Table(
    "background_job_count",
    core_metadata,
    Column("outcome", Text, primary_key=True),
    Column("count", BigInteger, nullable=False),
)
