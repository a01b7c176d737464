"""Celery's worker: takes messages from the broker, and runs their jobs in processes.

Without the classes below, Celery ends at a message that it cannot read, and waits up to half a
minute before it reconnects. Messages are acknowledged when a process takes them, because the table
knows the jobs that have not run; a later acknowledgement ends Celery after a restart of the broker.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from logging import getLogger
from threading import Thread
from typing import Any
from uuid import uuid4

import billiard
import orjson
from celery import Celery
from celery.signals import (
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_shutting_down,
)
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown
from kombu import Connection
from kombu.transport import redis as kombu
from kombu.transport import virtual
from redis import Redis
from uvicorn.loops.auto import auto_loop_factory

from app.core.http.problems import Unavailable
from app.core.jobs.celery import receive
from app.core.jobs.declaration import declared
from app.core.jobs.execution import executor
from app.core.operations import garbage_collection, lifecycle
from app.core.operations.capacity import JOB_POOL_SIZE
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.core.telemetry.logs import configure_logging

# Celery's only task. Its argument is an element of the queue, valid or not.
RUN = "run"
# The longest wait for a reply, and the interval of health checks: a broker that hangs is noticed
# within 5 s.
HANG_S = 2
# The pause before a new connection.
RETRY_S = 1
# No deadline ends a job that blocks the event loop: Celery kills its process this time later.
GRACE_S = 10
DRAIN = signal.SIGUSR2

logger = getLogger(__name__)

# Has an item when this process has received a signal to stop.
_stops: list[bool] = []


class _Client(Redis):
    """Turns each element of the queue into a message of Celery, which ends at any other element."""

    def parse_response(self, connection: Any, command_name: str, **options: Any) -> Any:
        read: Any = super().parse_response
        reply = read(connection, command_name, **options)
        if command_name == "BRPOP" and reply:
            queue, element = reply
            return queue, _message(queue, element)
        return reply


class _Channel(kombu.Channel):
    # Kombu's own class copies each message in the broker, which doubles the CPU of this process.
    QoS = virtual.QoS  # type: ignore[assignment]  # the superclass of the declared type

    def _get_client(self) -> type[Redis]:
        return _Client

    def _restore(self, message: Any, leftmost: bool = False) -> None:
        """Return a message that no process took to the queue, in its original form."""
        (element,), *_ = orjson.loads(message.body)
        with self.conn_or_acquire() as client:
            client.rpush(message.delivery_info["routing_key"], element)


class _Transport(kombu.Transport):
    Channel = _Channel


class _Consumer(Consumer):
    def ensure_connected(self, connection: Connection) -> Connection:
        """Connect, with a pause of `RETRY_S` between attempts; the log has the first failure."""
        failures = 0

        def complain(error: Exception, _: float) -> None:
            nonlocal failures
            failures += 1
            if failures == 1:
                logger.warning("The broker does not answer: %s", type(error).__name__)

        connected = connection.ensure_connection(
            complain,
            interval_start=RETRY_S,
            interval_step=0,
            interval_max=RETRY_S,
            callback=maybe_shutdown,
        )
        if failures:
            logger.info("The broker answers again")
        return connected


class _Process:
    """One process of the worker: runs one job at a time, in an event loop that never stops.

    The loop is in a thread, because the process itself waits for Celery's messages. So leases are
    extended and outcomes are counted at any time.
    """

    def __init__(self, settings: CoreSettings, resources: Sequence[Resource[Any]]) -> None:
        self._settings = settings
        self._resources = resources
        self._is_open: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stops = asyncio.Event()

    def start(self, **_: Any) -> None:
        signal.signal(DRAIN, self._drain)
        # Python 3.13.0 starts no thread that was created before the fork.
        self._thread = Thread(target=self._run_loop, daemon=True)
        self._thread.start()
        try:
            self._is_open.result()
        except Exception:
            logger.exception("The process does not open its resources; another one tries again")
            time.sleep(RETRY_S)
            # Celery ignores an exception here.
            os._exit(1)

    def stop(self, **_: Any) -> None:
        if self._loop:
            self._loop.call_soon_threadsafe(self._stops.set)
            self._thread.join()

    def run(self, text: str) -> None:
        assert self._loop
        try:
            asyncio.run_coroutine_threadsafe(receive(text), self._loop).result()
        except Unavailable as error:
            # The job is in the table, and is sent again.
            logger.warning("A job does not run: %s", error)

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            try:
                runner.run(self._live())
            except BaseException:
                if self._loop and not self._stops.is_set():
                    # Such as the SystemExit of a task. Celery would give messages to this process.
                    logger.critical("The process ends with its event loop", exc_info=True)
                    os._exit(1)
                raise

    async def _live(self) -> None:
        try:
            async with lifecycle.resources(
                self._settings, self._resources, pool_size=JOB_POOL_SIZE
            ):
                self._loop = asyncio.get_running_loop()
                self._is_open.set_result(None)
                await self._stops.wait()
        except BaseException as error:
            if not self._is_open.done():
                self._is_open.set_exception(error)
            raise

    def _drain(self, *_: Any) -> None:
        """Cancel the job that runs later than the drain timeout; it returns to the table."""
        if self._loop:
            timeout_s = self._settings.job_drain_timeout_s
            self._loop.call_soon_threadsafe(self._loop.call_later, timeout_s, executor.cancel)


def create_worker(
    settings: CoreSettings, resources: Sequence[Resource[Any]] = ()
) -> Callable[[], None]:
    """Return a function that runs jobs until SIGTERM; import the jobs before.

    Each process of the worker opens `resources`, after those of core.
    """
    celery = _configured(settings, resources)

    def work() -> None:
        _configure_logging(settings)
        worker: Any = celery.Worker(
            concurrency=settings.plan().jobs,
            without_gossip=True,
            without_mingle=True,
            without_heartbeat=True,
            # The banner is no line of the log.
            quiet=True,
        )
        garbage_collection.tune()
        worker.start()
        if worker.exitcode and not _stops:
            # An error that Celery does not handle. The new program keeps the id of the process.
            logger.critical("The worker starts again")
            time.sleep(RETRY_S)
            os.execv(sys.executable, sys.orig_argv)  # noqa: S606 - no shell
        sys.exit(worker.exitcode)

    return work


def _configured(settings: CoreSettings, resources: Sequence[Resource[Any]]) -> Celery:
    process = _Process(settings, resources)
    deadlines_s = [job.deadline_s or settings.job_time_limit_s for job in declared.values()]
    celery = Celery("app")
    celery.conf.update(
        broker_url=settings.broker_url.get_secret_value(),
        broker_transport=_Transport,
        broker_channel_error_retry=True,
        broker_connection_retry_on_startup=True,
        broker_transport_options={
            "socket_connect_timeout": HANG_S,
            "socket_timeout": HANG_S,
            "health_check_interval": HANG_S,
        },
        task_default_queue=settings.job_queue,
        task_ignore_result=True,
        task_time_limit=max(deadlines_s, default=0) + GRACE_S,
        worker_consumer=f"{__name__}:_Consumer",
        # A message waits in the broker until a process is free.
        worker_disable_prefetch=True,
        worker_prefetch_multiplier=1,
        worker_enable_prefetch_count_reduction=False,
        # No effect on acknowledged messages; the default is deprecated, and warns.
        worker_cancel_long_running_tasks_on_connection_loss=True,
        # Otherwise, each client of the broker could stop the workers.
        worker_enable_remote_control=False,
    )
    celery.task(name=RUN)(process.run)
    # Otherwise, Celery keeps only weak references.
    worker_process_init.connect(process.start, weak=False)
    worker_process_shutdown.connect(process.stop, weak=False)
    worker_shutting_down.connect(_drain_processes, weak=False)
    return celery


def _message(queue: bytes, element: bytes) -> bytes:
    """Return Celery's message, by its protocol 2, that has the element as its argument."""
    identifier = str(uuid4())
    return orjson.dumps(
        {
            "body": orjson.dumps([[element.decode(errors="replace")], {}, {}]).decode(),
            "content-type": "application/json",
            "content-encoding": "utf-8",
            # The argument may be personal data, which must not reach the log.
            "headers": {"task": RUN, "id": identifier, "argsrepr": "()", "kwargsrepr": "{}"},
            "properties": {
                "delivery_tag": identifier,
                "delivery_info": {"exchange": "", "routing_key": queue.decode()},
            },
        }
    )


def _drain_processes(**_: Any) -> None:
    _stops.append(True)
    for process in billiard.active_children():
        if process.pid:
            os.kill(process.pid, DRAIN)


def _configure_logging(settings: CoreSettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    # With a receiver for this signal, Celery changes no logger.
    setup_logging.connect(_keep_logging, weak=False)
    getLogger("celery").setLevel(settings.log_level)
    # The logger of Celery's processes does not propagate.
    getLogger("multiprocessing").handlers = [*getLogger().handlers]
    # `execution` logs jobs, with the ids of their requests.
    for name in ("app.trace", "worker.strategy", "worker.consumer.connection"):
        getLogger(f"celery.{name}").setLevel("WARNING")


def _keep_logging(**_: Any) -> None: ...
