"""Concurrency: several tasks at once, with partial results."""

from app.core.concurrency.partial import Partial, missing_parts, partial_result

__all__ = ["Partial", "missing_parts", "partial_result"]
