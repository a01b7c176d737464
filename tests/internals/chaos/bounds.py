"""The bounds that a service declares for what its clients see, in seconds."""

from importlib.util import find_spec

HAS_CACHE = find_spec("app.core.cache.store") is not None
HAS_CACHE_SERVER = find_spec("app.core.cache.store.server") is not None
HAS_REPLICA = find_spec("app.core.database.replica") is not None
HAS_OUTBOX = find_spec("app.core.jobs.outbox") is not None
HAS_BROKER = find_spec("app.core.jobs.broker") is not None
HAS_AUTH = find_spec("app.core.settings.auth") is not None
HAS_WORKER = find_spec("app.worker") is not None

# Without a server, a write is invisible to other workers until the entry expires.
TTL_S = 60.0 if HAS_CACHE_SERVER else 2.0
# The lifetime varies by a tenth.
CACHED_S = 3.0 if HAS_CACHE_SERVER else TTL_S * 1.1 + 0.5 if HAS_CACHE else 0.0
# DATABASE_REPLICA_MAX_LAG_S; a client that sends its `Commit-LSN` sees its own writes at once.
READ_S = 5.0 if HAS_REPLICA else 0.0
