"""The store of the cache: finds entries, and loads each one once for all callers."""

from app.core.cache.store.cache import Cache, Load, Loaded, NotShareable, Outcome, Read, cache

__all__ = ["Cache", "Load", "Loaded", "NotShareable", "Outcome", "Read", "cache"]
