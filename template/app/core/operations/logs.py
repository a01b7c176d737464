"""Where log records go: one line each on standard error, for the platform to collect."""

import logging


def configure_logging(level: str) -> None:
    """Log this service's own records from `level` up, and everybody else's from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(handler)
    logging.getLogger("app").setLevel(level)
