"""One delivery of a job: its outcome, its lease, and how its result is stored."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from contextvars import Context
from typing import Any
from uuid import uuid4

import pytest

from app.core.database import WriteSession, database
from app.core.http.problems import Busy, Unavailable
from app.core.jobs import Job, enqueue, execution, job, statements
from app.core.jobs.execution import executor
from app.core.jobs.message import Message, store
from app.core.jobs.outcome import MAX_BACKOFF_S, UNKNOWN_RETRIES, Unknown, outcome_of
from app.core.jobs.statements import MAX_DELIVERIES
from app.core.telemetry import request_id
from app.settings import get_settings
from tests.internals.jobs.queue import claim, counts, make_due, message_of, rows, run, until


async def execute(message: Message) -> None:
    """Run a job in a task of its own, as a worker does."""
    await asyncio.create_task(executor.execute(message), context=Context())


seen: list[Any] = []


@job
async def note(value: int) -> None:
    seen.append(value)


@job(retries=2)
async def fail(value: int) -> None:
    raise LookupError(f"nothing for {value}")


@job
async def need(value: int) -> None:
    raise Busy("All database connections are in use.")


@job(deadline_s=0.05)
async def hang(value: int) -> None:
    await asyncio.sleep(60)


@job
async def leave(value: int) -> None:
    raise SystemExit(3)


@job
async def cancel_itself(value: int) -> None:
    raise asyncio.CancelledError


@job
async def fail_after_its_own_cancellation(value: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    raise LookupError("too late")


@job
async def leave_a_cancellation(value: int) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise LookupError("not yet cancelled")


@job(version=2)
async def identify() -> None:
    seen.append(request_id.current())


@pytest.fixture(autouse=True)
async def _opened(database: None) -> AsyncIterator[None]:
    seen.clear()
    settings = get_settings().model_copy(update={"job_lease_s": 1.0})
    async with executor.opened(settings):
        yield


async def delivered(job: Job[[int]]) -> dict[str, Any]:
    """Run the job once, and return its row."""
    await enqueue(None, job, 1)
    for delivery in await claim():
        await execute(delivery)
    return (await rows())[0]


def delivery(name: str, **changes: Any) -> Message:
    return Message(uuid4(), name, 1, '{"value": 1}', "", **changes)


async def test_a_job_that_succeeds_is_gone() -> None:
    await enqueue(None, note, 1)
    for each in await claim():
        await execute(each)

    assert seen == [1]
    assert await rows() == []


async def test_a_key_is_kept_after_success_and_forgotten_later() -> None:
    for _ in range(2):
        await enqueue(None, note.options(key="a"), 1)
        for each in await claim():
            await execute(each)
    await enqueue(None, fail.options(key="a"), 1)

    assert seen == [1]
    assert [(row["name"], row["state"]) for row in await rows()] == [
        (note.name, "done"),
        (fail.name, "waiting"),
    ]

    await run("UPDATE background_job SET due_at = now() - interval '1 s'")
    async with WriteSession() as session:
        await session.autocommit(statements.FORGET)
    assert [row["name"] for row in await rows()] == [fail.name]


async def test_a_job_that_fails_runs_again_and_is_a_dead_letter_at_last(
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = await delivered(fail)
    assert (row["state"], row["attempts"], row["deliveries"]) == ("waiting", 1, 0)
    assert "LookupError: nothing for 1" in row["error"]
    assert await claim() == []  # not before its backoff

    for _ in range(2):
        await make_due()
        for each in await claim():
            await execute(each)
    (row,) = await rows()
    assert (row["state"], row["attempts"]) == ("dead", 3)
    assert "Traceback" in row["error"]
    assert "failed" in caplog.text
    assert "runs again in" in caplog.text
    await make_due()
    assert await claim() == []


@pytest.mark.parametrize(
    ("attempts", "delay_s"), [(0, 1), (1, 2), (5, 32), (9, 512), (10, MAX_BACKOFF_S), (9999, 600)]
)
async def test_the_backoff_doubles_up_to_a_bound(attempts: int, delay_s: float) -> None:
    unknown = delivery("nowhere", attempts=attempts)
    patient = outcome_of(unknown, Unknown("?"), stops=False)
    if attempts < UNKNOWN_RETRIES:
        assert (patient.label, patient.delay_s) == ("retried", delay_s)
    else:
        assert patient.label == "failed"


@pytest.mark.parametrize(("age_s", "delay_s"), [(0, 1), (50, 5), (3600, 60)])
async def test_an_unavailable_dependency_costs_no_retry(age_s: float, delay_s: float) -> None:
    old = delivery(note.name, attempts=5, deliveries=2, age_s=age_s)
    outcome = outcome_of(old, Unavailable("Gone."), stops=False)

    assert (outcome.label, outcome.attempts, outcome.deliveries) == ("retried", 5, 1)
    assert outcome.delay_s == delay_s


async def test_unavailable_is_retried() -> None:
    row = await delivered(need)

    assert (row["state"], row["attempts"], row["deliveries"]) == ("waiting", 0, 0)


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        (hang, "deadline of the job is 0.05 s"),
        (leave, "SystemExit"),
        (cancel_itself, "Cancelled"),
        (fail_after_its_own_cancellation, "too late"),
        (leave_a_cancellation, "not yet cancelled"),
    ],
)
async def test_every_way_to_end_is_a_failure(job: Job[[int]], reason: str) -> None:
    row = await delivered(job)

    assert (row["state"], row["attempts"]) == ("waiting", 1)
    assert reason in row["error"]


async def test_an_error_that_the_database_refuses_is_stored_as_another_text() -> None:
    @job
    async def fail_oddly(value: int) -> None:
        raise ValueError("a\0b\udcff")

    assert r"ValueError: a\x00b\udcff" in (await delivered(fail_oddly))["error"]


@pytest.mark.parametrize(
    ("arguments", "reason"), [("[]", "argument all"), ('{"value": "x"}', "argument value")]
)
async def test_wrong_arguments_are_dead_letters_at_once(arguments: str, reason: str) -> None:
    await store(None, message_of(note, arguments, id=uuid4()))
    for each in await claim():
        await execute(each)

    (row,) = await rows()
    assert row["state"] == "dead"
    assert reason in row["error"]


async def test_jobs_of_a_newer_release_wait_for_it() -> None:
    await store(None, message_of(note, "{}", id=uuid4(), version=2))
    await store(None, message_of(note, "{}", id=uuid4(), name="app.gone.gone"))
    for each in await claim(limit=2):
        await execute(each)

    newer, unknown = await rows()
    assert (newer["state"], unknown["state"]) == ("waiting", "waiting")
    assert "version 1, and the job has version 2" in newer["error"]
    assert "no job of this name" in unknown["error"]


async def test_older_arguments_are_read_by_the_present_signature() -> None:
    await store(None, message_of(identify, "{}", id=uuid4(), version=1))
    for each in await claim():
        await execute(each)

    assert seen == [""]


async def test_a_job_that_ends_its_process_is_a_dead_letter() -> None:
    await enqueue(None, note, 1)
    for _ in range(MAX_DELIVERIES):
        assert len(await claim(lease_s=0)) == 1
    for each in await claim():
        await execute(each)

    (row,) = await rows()
    assert seen == []
    assert row["state"] == "dead"
    assert "delivered 3 times without an outcome" in row["error"]


async def test_a_late_worker_does_not_end_the_job_of_another() -> None:
    await enqueue(None, note, 1)
    (late,) = await claim(lease_s=0)
    (other,) = await claim(lease_s=60)
    await execute(late)
    assert len(await rows()) == 1

    await execute(other)
    assert await rows() == []


async def test_the_lease_is_extended_while_the_job_runs() -> None:
    started = asyncio.Event()
    done = asyncio.Event()

    @job
    async def wait() -> None:
        started.set()
        await done.wait()

    await enqueue(None, wait)
    (held,) = await claim(lease_s=1)
    before = (await rows())[0]["due_at"]
    running = asyncio.create_task(execute(held))
    await started.wait()

    async def is_extended() -> bool:
        return bool((await rows())[0]["due_at"] > before)

    await until(is_extended)
    assert await claim() == []
    done.set()
    await running


async def test_the_lease_of_a_job_that_goes_on_after_its_deadline_ends(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(execution, "GRACE_S", 0.0)
    done = asyncio.Event()

    @job(deadline_s=0.01)
    async def go_on() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        await done.wait()

    await enqueue(None, go_on)
    (held,) = await claim(lease_s=0)
    running = asyncio.create_task(execute(held))

    async def is_free() -> bool:
        return "go_on runs on after its deadline" in caplog.text

    await until(is_free)
    assert [each.deliveries for each in await claim()] == [2]
    done.set()
    await running


async def test_the_end_of_the_event_loop_is_no_outcome() -> None:
    await enqueue(None, note, 1)
    (held,) = await claim()
    running = asyncio.create_task(execute(held))
    await asyncio.sleep(0)  # The task of the job has not begun.
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    (row,) = await rows()
    assert (row["state"], row["deliveries"], seen) == ("waiting", 1, [])


async def test_the_end_of_the_event_loop_within_a_job_is_no_outcome() -> None:
    started = asyncio.Event()

    @job
    async def wait() -> None:
        started.set()
        await asyncio.sleep(60)

    await enqueue(None, wait)
    (held,) = await claim()
    running = asyncio.create_task(execute(held))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    (row,) = await rows()
    assert (row["state"], row["attempts"], row["deliveries"]) == ("waiting", 0, 1)


async def test_an_outcome_is_stored_when_the_database_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(execution, "RETRY_S", 0.01)
    failures = 2
    real = database.fetch

    async def away(*arguments: Any, **options: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise Unavailable("The database cannot be reached.")
        return await real(*arguments, **options)

    await enqueue(None, note, 1)
    (held,) = await claim()
    monkeypatch.setattr(database, "fetch", away)
    await execute(held)

    assert failures < 0
    assert await rows() == []


async def test_a_job_has_the_id_of_its_request_and_nothing_else_of_it() -> None:
    context = Context()
    context.run(request_id.begin, "the-id")
    await asyncio.create_task(enqueue(None, identify), context=context)
    for each in await claim():
        await execute(each)

    assert seen == ["the-id"]
    assert request_id.current() != "the-id"


async def test_outcomes_are_counted() -> None:
    await delivered(fail)
    await delivered(note)

    async def are_counted() -> bool:
        return await counts() == {"retried": 1, "succeeded": 1}

    await until(are_counted)
