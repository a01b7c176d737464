"""The relay: sends the jobs of the table that are due to the broker, as messages.

A message names a delivery of a job, and the broker may lose or repeat it: the job stays in the
table until a worker has run it, and is sent again if no worker takes it within its lease. A relay
runs in each process. A commit of the process wakes it; it polls for retries, for periodic jobs, and
for jobs that a killed process left behind.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from logging import getLogger
from typing import Annotated, Protocol
from uuid import UUID, uuid4

import orjson
from pydantic import Field, TypeAdapter, ValidationError
from sqlalchemy import Integer, bindparam, func, update

from app.core.database import PreparedWrite
from app.core.http.problems import Unavailable
from app.core.jobs import periodic, statements
from app.core.jobs.execution import executor
from app.core.jobs.message import Message
from app.core.jobs.table import background_job as job
from app.core.settings.jobs import JobsSettings

POLL_S = 0.5
# Also the longest wait of jobs after the return of the broker.
MAX_BACKOFF_S = 5.0
BATCH = 100
# Other jobs wait in the table. This bounds the memory of the broker, and a message seldom waits
# longer than its lease, after which it is sent again.
MAX_MESSAGES = 1000
MAX_BODY_CHARS = 1024

logger = getLogger(__name__)


class Broker(Protocol):
    """The queue in the broker. Both methods raise `Unavailable` within a stated time."""

    async def waiting(self) -> int:
        """Return the number of messages that no worker has."""

    async def publish(self, messages: Sequence[str]) -> None:
        """Add messages to the queue."""


@dataclass(frozen=True)
class Reference:
    """A message: the job runs unless another message has led to this delivery before."""

    id: UUID
    attempts: Annotated[int, Field(ge=0, lt=2**31)]
    deliveries: Annotated[int, Field(ge=0, lt=2**31)]


REFERENCE = TypeAdapter(Reference)

# Takes due jobs to publish them, which is no delivery: they are due again when the lease ends.
TAKE = PreparedWrite(
    update(job)
    .where(job.c.id == statements.DUE.c.id)
    .values(due_at=func.now() + statements.seconds("lease_s"))
    .returning(job.c.id, job.c.attempts, job.c.deliveries)
)
# Claims a job that was taken, unless another worker has claimed it since then.
CLAIM_ONE = PreparedWrite(
    update(job)
    .where(
        job.c.id == bindparam("id"),
        job.c.attempts == bindparam("attempts", type_=Integer),
        job.c.deliveries == bindparam("deliveries", type_=Integer),
        statements.IS_WAITING,
    )
    .values(due_at=func.now() + statements.seconds("lease_s"), deliveries=job.c.deliveries + 1)
    .returning(*statements.DELIVERY)
)


class Relay:
    """The relay of this process, and the way of its messages to the broker."""

    def __init__(self) -> None:
        self._broker: Broker | None = None
        self._is_woken = asyncio.Event()
        # The state of the broker for `/readyz`: `ok` or `unreachable`.
        self.state = "ok"
        # Messages that no worker has; None if the broker does not answer.
        self.waiting: int | None = 0

    @asynccontextmanager
    async def running(self, broker: Broker, settings: JobsSettings) -> AsyncIterator[None]:
        """Relay jobs to the broker until the block ends."""
        self._broker, self._is_woken = broker, asyncio.Event()
        async with executor.opened(settings), periodic.running():
            task = asyncio.create_task(self._run(), name="relay")
            try:
                yield
            finally:
                while not task.done():
                    # redis-py can lose a cancellation.
                    task.cancel()
                    await asyncio.wait([task], timeout=POLL_S)

    async def wake(self) -> None:
        """Have due jobs sent soon; a callback for `after_commit`."""
        self._is_woken.set()

    async def publish(self, messages: Sequence[str]) -> None:
        """Add messages to the queue.

        Raises:
            Unavailable: when the broker does not answer in time; workers may still get them.
        """
        try:
            await self._opened.publish(messages)
        except Unavailable:
            self.state = "unreachable"
            raise

    @property
    def _opened(self) -> Broker:
        if self._broker is None:
            raise RuntimeError("Jobs need `async with lifecycle.resources(...)`.")
        return self._broker

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                is_all_sent = await self._send()
            except Exception as error:
                failures += 1
                if failures == 1:
                    logger.warning("Jobs wait in the table: %r", error)
                backoff_s = min(MAX_BACKOFF_S, POLL_S * 2.0**failures)
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1))  # noqa: S311 - no secret
                continue
            if failures:
                logger.info("Jobs are sent to the broker again")
                failures = 0
            if is_all_sent:
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._is_woken.wait()

    async def _send(self) -> bool:
        """Send a batch of due jobs; return whether no other can be sent now."""
        self._is_woken.clear()
        try:
            self.waiting = await self._opened.waiting()
        except Unavailable:
            self.state, self.waiting = "unreachable", None
            raise
        self.state = "ok"
        room = MAX_MESSAGES - self.waiting
        if room <= 0:
            await asyncio.sleep(POLL_S)
            return True
        limit = min(room, BATCH)
        lease_s = executor.settings.job_lease_s
        rows = await executor.fetch(TAKE, limit=limit, lease_s=lease_s)
        if rows:
            # If the messages are lost, the jobs are due again when their leases end.
            await self.publish([REFERENCE.dump_json(Reference(**row)).decode() for row in rows])
        return len(rows) < limit


async def execute(reference: Reference) -> None:
    """Claim, run and store a job that `TAKE` returned, unless another worker claimed it."""
    lease_s = executor.settings.job_lease_s
    for row in await executor.fetch(CLAIM_ONE, **vars(reference), lease_s=lease_s):
        await executor.execute(Message(**row))


async def bury(text: str, error: Exception) -> None:
    """Make a dead letter of a message that is no job."""
    reason = str(error)
    if isinstance(error, ValidationError):
        # Without the value, which may be personal data.
        first = error.errors(include_input=False, include_url=False)[0]
        reason = " ".join([*map(str, first["loc"]), first["msg"]])
    logger.error("A message of the broker is no job: %s", reason)
    # PostgreSQL stores no NUL.
    body = text[:MAX_BODY_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
    arguments = orjson.dumps({"body": body}).decode()
    letter = Message(uuid4(), "message", 1, arguments, request_id="", attempts=1)
    await executor.fetch(statements.ADD, **letter.row("dead", reason))


relay = Relay()
