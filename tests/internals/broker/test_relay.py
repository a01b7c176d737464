"""The relay without a broker."""

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from app.core.jobs import relay
from app.core.jobs.execution import Executor
from app.settings import get_settings


class Deaf:
    """A client of the broker that loses a cancellation, as redis-py can."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    async def waiting(self) -> int:
        self.asked.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass
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
