"""A read replica: which server answers a read, and how a write is seen by whoever made it."""

from app.core.database.replica.consistency import CommitTokens, fresh
from app.core.database.replica.router import lent, replica

__all__ = ["CommitTokens", "fresh", "lent", "replica"]
