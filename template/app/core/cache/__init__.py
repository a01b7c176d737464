"""Cached reads: `cached` for what a function returns, `public` of `app.core.http_caching` for
responses; both are kept in `cache` and invalidated by tag."""

from app.core.cache.cached import CachedFunction, cached, invalidate_after_commit
from app.core.cache.store import cache

__all__ = ["CachedFunction", "cache", "cached", "invalidate_after_commit"]
