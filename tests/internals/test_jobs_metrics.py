"""Metrics of background jobs: one query over their table."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import delete, insert, text

from app.core.database import database
from app.core.jobs import metrics
from app.core.jobs.table import background_job, background_job_count

HAS_BROKER = hasattr(metrics, "relay")


async def measured() -> dict[str, float]:
    return {
        " ".join([sample.name, *sample.labels.values()]): sample.value
        for family in await metrics.families()
        for sample in family.samples
    }


def row(number: int, state: str, due: str, **changed: Any) -> dict[str, Any]:
    return {
        "id": f"00000000-0000-0000-0000-{number:012}",
        "name": "a.job",
        "version": 1,
        "arguments": {},
        "request_id": "",
        "state": state,
        "due_at": text(f"now() {due}"),
        **changed,
    }


async def test_jobs_are_counted_while_they_wait_and_when_they_end(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = SimpleNamespace(waiting=5)
    monkeypatch.setattr(metrics, "relay", relay, raising=False)
    async with database.engine.connect() as connection:
        # Not committed: the application, which runs, would claim the jobs.
        @asynccontextmanager
        async def connect() -> AsyncIterator[Any]:
            yield connection

        source = SimpleNamespace(
            gate=nullcontext(), autocommit_engine=SimpleNamespace(connect=connect)
        )
        monkeypatch.setattr(metrics, "database", source)
        for table in (background_job, background_job_count):
            await connection.execute(delete(table))
        nothing = await measured()
        for values in (
            row(1, "waiting", "- interval '90 seconds'"),
            row(2, "waiting", "- interval '10 seconds'", deliveries=1),
            row(3, "waiting", "+ interval '1 minute'"),
            row(4, "dead", "- interval '1 hour'"),
            row(5, "done", "- interval '1 hour'"),
        ):
            await connection.execute(insert(background_job).values(values))
        for outcome, count in {"failed": 1, "refused": 2, "succeeded": 2**40}.items():
            values = {"outcome": outcome, "count": count}
            await connection.execute(insert(background_job_count).values(values))
        found = await measured()
        relay.waiting = None
        without_broker = await measured()

    assert nothing == dict.fromkeys(nothing, 0) | {"jobs_waiting": 5 if HAS_BROKER else 0}
    assert found.pop("jobs_oldest_age_seconds") == pytest.approx(90, abs=1)
    assert found == {
        "jobs_waiting": 7 if HAS_BROKER else 2,
        "jobs_dead": 1,
        "jobs_total succeeded": 2**40,
        "jobs_total failed": 1,
        "jobs_total retried": 0,
        "jobs_total refused": 2,
    }
    assert ("jobs_waiting" in without_broker) != HAS_BROKER


async def test_a_table_that_is_locked_fails_no_scrape(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "TIMEOUT_S", 0.1)
    async with database.engine.begin() as connection:
        await connection.execute(text("LOCK TABLE background_job"))
        async with asyncio.timeout(10):
            assert await measured() == {}
