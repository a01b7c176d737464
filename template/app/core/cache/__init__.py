"""Cached reads: `cached` remembers the bytes that a function loads, `cache` holds them."""

from app.core.cache.backend import cache
from app.core.cache.cached import CachedFunction, cached

__all__ = ["CachedFunction", "cache", "cached"]
