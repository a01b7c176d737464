"""Garbage collection in processes that serve: less often, and without the imported objects."""

import gc

# New objects, then collections of the generation before. One list of rows reaches Python's 700
# objects, or 2,000 since 3.13.
THRESHOLDS = 10_000, 10, 10


def tune() -> None:
    """Exempt all present objects from collection, and raise its thresholds.

    Call it after the import of the application, and in gunicorn's master before the fork: a
    collection writes to each object that it visits, which copies the memory that processes share.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
