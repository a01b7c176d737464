"""RQ's worker: processes that take messages from the broker, and run their jobs.

RQ's own workers either fork a process for each job, which would open all resources, or end at an
error of the broker. Here each process opens the resources once and runs one job at a time in its
event loop; RQ's worker waits for messages in a thread. The table of jobs has retries, deadlines and
dead letters: those of RQ, its registries and its scheduler are not used.
"""

import asyncio
import faulthandler
import os
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from contextlib import suppress
from datetime import timedelta
from functools import partial
from logging import getLogger
from multiprocessing import get_context
from threading import Event, Thread
from typing import Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import clean_worker_registry
from uvicorn.loops.auto import auto_loop_factory

from app.core.jobs.declaration import declared
from app.core.jobs.execution import executor
from app.core.jobs.rq import receive
from app.core.operations import garbage_collection, lifecycle
from app.core.operations.capacity import JOB_POOL_SIZE
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.core.telemetry.logs import configure_logging

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
# An idle process notices its stop, and a process that ended is replaced, within this time.
POLL_S = 1
# A broker that hangs is noticed within this time.
HANG_S = 3
# Messages that were taken and not acknowledged return to the queue at this interval.
RETURN_S = 5
HEARTBEAT_S = 30
RELEASE_TIMEOUT_S = 2.0

logger = getLogger(__name__)


class _Message(Job):
    """A message of ours, where RQ expects the id of a job."""

    text: bytes


class _Queue(Queue):
    # Set when the process stops.
    stop = Event()

    @classmethod
    def dequeue_any(
        cls, queues: Iterable[Queue], timeout: int | None, connection: Redis, *_: Any, **__: Any
    ) -> tuple[Job, Queue]:
        """Move the oldest message to RQ's list of those that are taken."""
        if cls.stop.is_set():
            raise StopRequested
        (queue,) = queues
        taken: Any = connection.blmove(
            queue.key, queue.intermediate_queue_key, POLL_S, "RIGHT", "LEFT"
        )
        if taken is None:
            raise DequeueTimeout(POLL_S, queue.key)
        message = _Message(connection=connection, serializer=JSONSerializer)
        message.text = taken
        return message, queue


class _Worker(BaseWorker):
    """RQ's worker without the parts that contradict the table of jobs.

    Args:
        run: runs the job of a message, and returns whether the table has the outcome.
    """

    queue_class = _Queue
    # RQ waits up to a minute before it connects again.
    max_connection_wait_time = 1.0
    dequeue_timeout = POLL_S
    connection_timeout = HANG_S

    def __init__(self, queue: Queue, run: Callable[[str, Callable[[], None]], bool]) -> None:
        super().__init__([queue], connection=queue.connection, log_job_description=False)
        self.maintenance_interval = RETURN_S
        self._run = run

    def _install_signal_handlers(self) -> None:
        """Do nothing: the event loop has the signals."""

    def subscribe(self) -> None:
        """Do nothing: a command of RQ would stop a job, and the table would not know."""

    def heartbeat(self, *arguments: Any, **options: Any) -> None:
        """Tell RQ's tools that the worker lives, less often than RQ's three times for each job."""
        if not self.last_heartbeat or now() - self.last_heartbeat > timedelta(seconds=POLL_S):
            super().heartbeat(*arguments, **options)

    def run_maintenance_tasks(self) -> None:
        """Return the taken messages to the queue, because their processes may be dead.

        A job that still runs is not run again: the table knows its delivery.
        """
        (queue,) = self.queues
        for _ in range(self.connection.llen(queue.intermediate_queue_key)):
            self.connection.lmove(queue.intermediate_queue_key, queue.key, "LEFT", "RIGHT")
        # For `rq info`.
        self.connection.sadd(queue.redis_queues_keys, queue.key)
        clean_worker_registry(queue)
        self.last_cleaned_at: Any = now()

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Run the job of a message, and acknowledge the message."""
        assert isinstance(job, _Message)
        text: Any = job.text
        try:
            self.set_state(WorkerStatus.BUSY)
            if self._run(text.decode(errors="replace"), self.heartbeat):
                self.connection.lrem(queue.intermediate_queue_key, 1, text)
        except RedisError as error:
            # RQ would log a traceback; `_take` connects again.
            raise StopRequested from error


class _Process:
    """One process: a thread takes messages, and the event loop runs their jobs."""

    def __init__(self, settings: CoreSettings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        # A daemon, because a broker that hangs must not hold up the end of the process.
        Thread(target=self._take, daemon=True).start()

    async def drain(self) -> None:
        """Take no more messages, and release the job that does not end in time."""
        _Queue.stop.set()
        await self._end(self._settings.job_drain_timeout_s)
        executor.cancel()
        await self._end(RELEASE_TIMEOUT_S)

    async def _end(self, timeout_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()

    def _take(self) -> None:
        """Take messages until the stop; connect again after each error of the broker."""
        while not _Queue.stop.is_set():
            try:
                connection = Redis.from_url(
                    self._settings.broker_url.get_secret_value(),
                    socket_connect_timeout=POLL_S,
                    socket_timeout=HANG_S,
                    retry=Retry(NoBackoff(), 0),
                )
                queue = _Queue(self._settings.job_queue, connection=connection)
                _Worker(queue, self._run).work(logging_level="WARNING")
            except RedisError as error:
                logger.warning("The broker does not answer: %s", type(error).__name__)
            _Queue.stop.wait(POLL_S)
        self._loop.call_soon_threadsafe(self._ended.set)

    def _run(self, text: str, heartbeat: Callable[[], None]) -> bool:
        """Run the job of a message; `heartbeat` tells RQ's tools that the worker lives."""
        running = asyncio.run_coroutine_threadsafe(receive(text), self._loop)
        while futures.wait([running], HEARTBEAT_S).not_done:
            with suppress(RedisError):
                heartbeat()
        try:
            running.result()
        except Exception as error:
            logger.warning("A message is taken again: %r", error)
            _Queue.stop.wait(POLL_S)
            return False
        return True


def create_worker(
    settings: CoreSettings, resources: Sequence[Resource[Any]] = ()
) -> Callable[[], None]:
    """Return a function that runs jobs until SIGTERM; import the jobs before.

    Each of its processes opens `resources`, after those of core.
    """
    return partial(_serve, settings, resources)


def _serve(settings: CoreSettings, resources: Sequence[Resource[Any]]) -> None:
    """Keep the processes running until a signal, then stop them."""
    configure_logging(settings.log_level, settings.log_format)
    signals: list[int] = []
    for number in SIGNALS:
        signal.signal(number, lambda number, _: signals.append(number))
    garbage_collection.tune()
    # Forked, the processes share the memory of the imported modules.
    arguments = settings, resources, os.getpid()
    start = partial(get_context("fork").Process, target=_start, args=arguments)
    processes = [start() for _ in range(settings.plan().jobs)]
    for process in processes:
        process.start()
    logger.info("The job worker is ready.")
    while not signals:
        time.sleep(POLL_S)
        for index, process in enumerate(processes):
            if not process.is_alive():
                logger.error("A process ended with exit code %s; another starts", process.exitcode)
                processes[index] = start()
                processes[index].start()
    for process in processes:
        process.terminate()
    deadline_s = time.monotonic() + settings.job_drain_timeout_s + 2 * RELEASE_TIMEOUT_S
    for process in processes:
        process.join(max(0.0, deadline_s - time.monotonic()))
        # A job can block the event loop.
        process.kill()
        process.join()


def _start(settings: CoreSettings, resources: Sequence[Resource[Any]], master: int) -> None:
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    try:
        with asyncio.Runner(loop_factory=auto_loop_factory()) as runner:
            runner.run(_work(settings, resources, master))
    except Exception:
        logger.exception("A process of the job worker failed")
        raise SystemExit(1) from None


async def _work(settings: CoreSettings, resources: Sequence[Resource[Any]], master: int) -> None:
    deadlines_s = [job.deadline_s or 0 for job in declared.values()]
    longest_s = max([settings.job_time_limit_s, *deadlines_s]) + POLL_S
    stopping = asyncio.Event()
    for number in SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with lifecycle.resources(settings, resources, pool_size=JOB_POOL_SIZE):
        process = _Process(settings)
        # A master that was killed cannot stop its processes.
        while os.getppid() == master and not stopping.is_set():
            # No deadline ends a job that blocks the event loop: the process ends, with its stack in
            # the log.
            faulthandler.dump_traceback_later(longest_s, exit=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await stopping.wait()
        faulthandler.cancel_dump_traceback_later()
        await process.drain()
