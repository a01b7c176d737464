"""Logging: one line for each record on standard error, for the platform to collect."""

import logging


def configure_logging(level: str) -> None:
    """Log the records of `app` from `level` up, and those of libraries from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
    logging.getLogger("app").setLevel(level)
