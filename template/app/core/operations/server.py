"""How gunicorn runs the application in each worker."""

from typing import Any

from uvicorn_worker import UvicornWorker

# Time from SIGTERM until running requests are cut off.
REQUEST_DRAIN_S = 15
# Time from SIGTERM until gunicorn kills the worker; jobs drain after the requests.
GRACEFUL_TIMEOUT_S = 30


class Worker(UvicornWorker):  # type: ignore[misc]  # uvicorn_worker has no types
    """uvicorn on uvloop and httptools (h11 costs a third of the requests).

    It ends a hung request before gunicorn kills the worker at `graceful_timeout`; otherwise the
    shutdown of the lifespan would not run.
    """

    CONFIG_KWARGS: dict[str, Any] = {  # noqa: RUF012 - as the base class does
        "loop": "uvloop",
        "http": "httptools",
        "timeout_graceful_shutdown": REQUEST_DRAIN_S,
        # It is useful only to attackers, and each header costs a microsecond.
        "server_header": False,
    }
