"""`plain` with the garbage collection of the rendered service, and no other difference."""

import gc

from benchmarks.plain.main import app

__all__ = ["app"]

# As `app/core/operations/garbage_collection.py` of the rendered service.
gc.collect()
gc.freeze()
gc.set_threshold(10_000, 10, 10)
