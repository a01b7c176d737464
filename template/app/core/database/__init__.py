"""PostgreSQL: models inherit from `Base`, reads take a `ReadSession`, writes a `WriteSession`."""

from app.core.database.columns import columns_of
from app.core.database.engine import Database, database
from app.core.database.errors import violated_constraint
from app.core.database.models import Base
from app.core.database.prepared import PreparedRead, PreparedWrite, Row
from app.core.database.sessions import ReadSession, ReadSessionDep, WriteSession, WriteSessionDep

__all__ = [
    "Base",
    "Database",
    "PreparedRead",
    "PreparedWrite",
    "ReadSession",
    "ReadSessionDep",
    "Row",
    "WriteSession",
    "WriteSessionDep",
    "columns_of",
    "database",
    "violated_constraint",
]
