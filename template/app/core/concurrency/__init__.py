"""Concurrency: several tasks at once, with partial results."""

from app.core.concurrency.partial import Partial, partial_result

__all__ = ["Partial", "partial_result"]
