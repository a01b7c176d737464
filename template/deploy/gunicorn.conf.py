"""gunicorn's configuration, from the same settings and the same capacity plan as the pools."""

import os
from logging import getLogger
from pathlib import Path
from typing import Any

from gunicorn.glogging import Logger

from app.core.operations import addresses, drain
from app.core.operations.check import require_valid_policies
from app.core.operations.logs import configure_logging
from app.core.operations.server import GRACEFUL_TIMEOUT_S, Worker
from app.settings import get_settings

settings = get_settings()
plan = settings.plan()
configure_logging(settings.log_level, settings.log_format)
getLogger("app.capacity").info("%s", plan)

listens = {"PORT": (settings.host, settings.port)}
for host, _ in listens.values():
    addresses.require_address(host)
bind = [addresses.bind(*address) for address in listens.values()]
# One worker for each usable core: 2n + 1 workers gave 0.7 times the requests at twice the latency.
workers = plan.workers
worker_class = Worker
Worker.settings = settings
# Imported once and shared by all workers, which saves a third of their memory; connections are
# opened later, by each worker's own lifespan.
preload_app = True
# Replaces a worker whose event loop is blocked for this long; slow requests do not count.
timeout = 30
graceful_timeout = GRACEFUL_TIMEOUT_S
max_requests = settings.max_requests
max_requests_jitter = settings.max_requests // 2
# Longer than the idle timeout of the proxy in front; otherwise it sends requests into closing
# connections.
keepalive = 75
# Heartbeats are files, and a slow disk stalls the worker: use a tmpfs if there is one.
shared_memory = Path("/dev/shm")  # noqa: S108 - gunicorn unlinks the file as it opens it
worker_tmp_dir = str(shared_memory) if shared_memory.is_dir() else None
control_socket_disable = True
# The proxy in front writes one; here it costs a fifth of the requests.
accesslog = None


class logger_class(Logger):  # type: ignore[misc]  # gunicorn has no types
    """Logs as the application does, from where gunicorn passes it on to uvicorn."""

    def setup(self, cfg: object) -> None:
        super().setup(cfg)
        self.error_log.handlers = getLogger().handlers


def on_starting(arbiter: Any) -> None:
    """Refuse once, before each worker fails with it: an invalid caching policy, a taken port."""
    from app.main import app  # which `preload_app` has imported

    require_valid_policies(app)
    # SIGUSR2 and systemd pass sockets that are bound.
    if not arbiter.master_pid and "LISTEN_FDS" not in os.environ:
        for variable, address in listens.items():
            addresses.require_free(variable, *address)


def when_ready(arbiter: Any) -> None:
    """Let readiness fail before the workers stop to accept."""
    drain.delay_stop(arbiter, settings.drain_delay_s)


def child_exit(arbiter: Any, worker: Any) -> None:
    """Say why a worker was replaced; the worker itself has logged its stack."""
    if worker.aborted:
        arbiter.log.critical(
            "Worker %s was replaced: a call blocked its event loop for %s s. Its stack is above; "
            "await an asynchronous function instead, or run the call in a thread.",
            worker.pid,
            arbiter.timeout,
        )
