"""Logging: one line for each record on standard error, for the platform to collect."""

import logging


def configure_logging(level: str) -> None:
    """Log the records of `app` from `level` up, and those of libraries from WARNING up."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("app").setLevel(level)
