"""The store of the cache: finds entries, and loads each one once for all callers."""

from app.core.cache.store.cache import Cache, Load, NotShareable, Outcome, Read, cache

__all__ = ["Cache", "Load", "NotShareable", "Outcome", "Read", "cache"]
