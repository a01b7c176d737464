"""How gunicorn runs the application in each worker."""

from typing import Any

from uvicorn_worker import UvicornWorker

# From SIGTERM on: requests have this long to end,
REQUEST_DRAIN_S = 15
# and what the lifespan closes after them, jobs among it, until then; gunicorn kills the worker.
GRACEFUL_TIMEOUT_S = 30


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """uvicorn on uvloop and httptools (h11 costs a third of the requests).

    It must give up on a hung request before gunicorn kills it at `graceful_timeout`, or the
    lifespan's shutdown never runs.
    """

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - as the base class does
        "loop": "uvloop",
        "http": "httptools",
        "timeout_graceful_shutdown": REQUEST_DRAIN_S,
        # Each header costs a microsecond, and this one tells nobody but attackers something.
        "server_header": False,
    }
