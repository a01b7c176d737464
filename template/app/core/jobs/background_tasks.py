"""Background jobs in the web process, after the response.

Unlike FastAPI's `BackgroundTasks`, `enqueue` works outside of a request, limits the numbers of jobs
that run and that wait, and a stopping worker waits for its jobs, for a limited time. A killed
worker loses its jobs.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from logging import getLogger
from time import monotonic
from typing import Any, ParamSpec

from app.core.http.problems import Unavailable
from app.core.settings.jobs import JobsSettings
from app.core.telemetry import request_id

P = ParamSpec("P")
Job = Coroutine[Any, Any, None]

logger = getLogger(__name__)

RETRY_AFTER_S = 1.0

_jobs: set[Callable[..., Job]] = set()


def job(function: Callable[P, Job]) -> Callable[P, Job]:
    """Declare an async function as a job, for `enqueue`."""
    _jobs.add(function)
    return function


class Runner:
    """Runs the jobs of this process; opened and closed with its other resources."""

    def __init__(self) -> None:
        self._settings: JobsSettings | None = None
        self._slots = asyncio.Semaphore()
        self._accepted: set[asyncio.Task[None]] = set()
        # When each waiting job was accepted; the first starts first.
        self._waiting: deque[float] = deque()
        # Jobs by outcome: succeeded, failed, retried or refused.
        self.counts: Counter[tuple[str]] = Counter()

    def open(self, settings: JobsSettings) -> None:
        """Accept jobs from now on."""
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.job_concurrency)
        self._waiting.clear()

    async def enqueue(
        self, function: Callable[P, Job], /, *args: P.args, **kwargs: P.kwargs
    ) -> None:
        """Run the job soon, in this process; an error of the job is logged.

        Raises:
            TypeError: when the function is not declared with `job`.
            RuntimeError: when the process has not opened its resources.
            Unavailable: when `JOB_BACKLOG` jobs wait already. After a commit the write stands, and
                the session logs that the job was lost: a job that must run needs another engine.
        """
        if function not in _jobs:
            raise TypeError(f"{function!r} is not declared with @job")
        if self._settings is None:
            raise RuntimeError("Jobs need `async with lifecycle.resources(...)`.")
        if len(self._accepted) >= self._settings.job_concurrency + self._settings.job_backlog:
            self.counts[("refused",)] += 1
            raise Unavailable(f"{function.__qualname__} is not run: too many jobs wait.")
        work = partial(function, *args, **kwargs)
        run = self._run(function.__qualname__, work, self._settings.job_time_limit_s)
        # The job is no part of the request, and has nothing of it but its id.
        context = Context()
        context.run(request_id.begin, request_id.current())
        name = f"{function.__qualname__} {request_id.current()}".rstrip()
        task = asyncio.create_task(run, name=name, context=context)
        # The event loop keeps only weak references to tasks.
        self._accepted.add(task)
        task.add_done_callback(self._accepted.discard)
        self._waiting.append(monotonic())

    def backlog(self) -> tuple[int, float]:
        """Return the number of jobs that wait, and the seconds that the oldest has waited."""
        return len(self._waiting), monotonic() - self._waiting[0] if self._waiting else 0.0

    async def drain(self) -> None:
        """Wait for the accepted jobs; cancel the jobs that take longer than the drain timeout."""
        if self._settings is None:
            return
        try:
            async with asyncio.timeout(self._settings.job_drain_timeout_s):
                # A job can enqueue another job.
                while self._accepted:
                    await asyncio.wait(self._accepted)
        except TimeoutError:
            late = list(self._accepted)
            names = ", ".join(task.get_name() for task in late)
            logger.error("Cancelled, because they did not end in time: %s", names)
            self.counts[("failed",)] += len(late)
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=1)

    async def close(self) -> None:
        """Drain, and accept no more jobs."""
        await self.drain()
        self._settings = None

    async def _run(self, name: str, work: Callable[[], Job], time_limit_s: float) -> None:
        try:
            async with self._slots, asyncio.timeout(time_limit_s):
                self._waiting.popleft()
                while True:
                    try:
                        await work()
                        self.counts[("succeeded",)] += 1
                        return
                    except Unavailable as error:
                        self.counts[("retried",)] += 1
                        # Requests come first when connections are short; a job can wait.
                        logger.warning("job %s runs again in %g s: %s", name, RETRY_AFTER_S, error)
                        await asyncio.sleep(RETRY_AFTER_S)
        except Exception:
            self.counts[("failed",)] += 1
            logger.exception("job %s failed", name)

    async def checks(self) -> dict[str, str]:
        """Return nothing for `/readyz`: jobs depend on no other server."""
        return {}


runner = Runner()
open, close, drain = runner.open, runner.close, runner.drain
checks, enqueue = runner.checks, runner.enqueue
