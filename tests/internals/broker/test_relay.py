"""The relay without a broker."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from uuid import UUID, uuid4

import pytest
from sqlalchemy import delete

from app.core.database import Database
from app.core.jobs import job, relay, statements
from app.core.jobs.execution import Executor
from app.core.jobs.message import Message
from app.core.jobs.table import background_job, background_job_count
from app.settings import get_settings


class Deaf:
    """A client of the broker that loses a cancellation, as redis-py can."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def waiting(self) -> int:
        self.asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return relay.MAX_MESSAGES

    async def publish(self, messages: Sequence[str]) -> None: ...


def test_a_relay_ends_although_a_cancellation_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        broker = Deaf()
        async with asyncio.timeout(10), relay.Relay().running(broker, get_settings()):
            await broker.asked.wait()

    # Those of this process may be open in another event loop.
    monkeypatch.setattr(relay, "executor", Executor())
    monkeypatch.setattr("app.core.jobs.periodic.running", nullcontext)
    asyncio.run(run())


def test_a_reference_that_comes_twice_runs_its_job_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    @job
    async def note(number: int) -> None:
        seen.append(number)

    async def run() -> None:
        source, executor, settings = Database(), Executor(), get_settings()
        monkeypatch.setattr(relay, "executor", executor)
        source.open(settings, pool_size=2)
        try:
            # Other tests may have left jobs, which need the event loop of the application.
            async with source.engine.begin() as connection:
                await connection.execute(delete(background_job))
            async with executor.opened(settings, source):
                message = Message(uuid4(), note.name, note.version, note.dump(1), request_id="")
                await executor.fetch(statements.ADD, **message.row())
                (taken,) = await executor.fetch(relay.TAKE, limit=1, lease_s=30)
                reference = relay.Reference(**taken)
                await asyncio.gather(*(relay.execute(reference) for _ in range(3)))
                await relay.execute(relay.Reference(UUID(int=0), 0, 0))
            async with source.engine.begin() as connection:
                await connection.execute(delete(background_job_count))
        finally:
            await source.close()

    # The relay of the application does not run meanwhile: its event loop is another one.
    asyncio.run(run())

    assert seen == [1]
