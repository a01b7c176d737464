"""The gate before the pool: its order, its patience, and that no slot gets lost."""

import asyncio
from contextvars import Context

import pytest

from app.core.database.gate import Gate, Slot
from app.core.http.problems import Busy


async def test_slots_are_given_in_the_order_in_which_they_were_asked_for() -> None:
    gate = Gate(2, timeout_s=5)
    order: list[int] = []

    async def ask_again_and_again(name: int) -> None:
        for _ in range(3):
            async with gate:
                order.append(name)
                await asyncio.sleep(0)

    await asyncio.gather(*(ask_again_and_again(name) for name in range(6)))

    # Whoever has had a slot is behind everybody who waits.
    assert order == [0, 1, 2, 3, 4, 5] * 3


async def test_a_wait_has_an_end() -> None:
    gate = Gate(1, timeout_s=0.01)

    async with gate:
        with pytest.raises(Busy, match="All database connections are in use"):
            await gate.acquire()
    async with gate:
        pass


async def test_who_is_cancelled_while_waiting_takes_no_slot() -> None:
    gate = Gate(1, timeout_s=5)

    async with gate:
        waiting = asyncio.create_task(gate.acquire())
        behind = asyncio.create_task(gate.acquire())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    async with asyncio.timeout(1):
        await behind


async def test_a_slot_that_comes_in_the_moment_of_a_cancellation_is_not_lost() -> None:
    gate = Gate(1, timeout_s=5)

    await gate.acquire()
    waiting = asyncio.create_task(gate.acquire())
    await asyncio.sleep(0)
    gate.release()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    async with asyncio.timeout(1):
        await gate.acquire()


async def test_a_transaction_takes_one_slot_however_much_it_does() -> None:
    gate = Gate(1, timeout_s=0.01)
    slot = Slot(gate)

    slot.release()  # nothing
    await slot.take()
    await slot.take()
    slot.release()
    slot.release()

    async with gate:
        with pytest.raises(Busy):
            await gate.acquire()


async def test_a_task_that_holds_a_slot_may_not_wait_for_another() -> None:
    gate, other = Gate(2, timeout_s=5), Gate(1, timeout_s=5)
    slot = Slot(gate)
    await slot.take()

    with pytest.raises(RuntimeError, match="read through that session"):
        await gate.acquire()
    with pytest.raises(RuntimeError):
        await asyncio.create_task(gate.acquire())
    await asyncio.create_task(gate.acquire(), context=Context())
    await other.acquire()

    slot.release()
    await gate.acquire()


async def test_a_reserved_slot_is_the_only_one_of_its_task() -> None:
    gate = Gate(1, timeout_s=0.01)
    slot = Slot(gate)
    slot.reserve()

    with pytest.raises(RuntimeError, match="read through that session"):
        await gate.acquire()
    await slot.take()
    assert gate.in_use == 1
    slot.release()
    slot.reserve()
    slot.release()
    await gate.acquire()
