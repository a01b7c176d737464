"""A read replica: routing of reads, monitoring, and reads that see the client's own writes."""

from app.core.database.replica.consistency import CommitTokens, fresh
from app.core.database.replica.router import replica

__all__ = ["CommitTokens", "fresh", "replica"]
