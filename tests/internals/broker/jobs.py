"""Jobs whose effects tests count in the database."""

import asyncio
import gc
import os
import signal
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, Table, Text, func, insert, select

from app.core.database import ReadSession, WriteSession
from app.core.http.problems import Unavailable
from app.core.jobs import every, job
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.core.telemetry import request_id

# FastAPI and SQLAlchemy alone have more objects.
FEWEST_IMPORTED = 50_000

effect = Table(
    "effect",
    MetaData(),
    Column("number", Integer, primary_key=True),
    Column("label", Text),
    Column("step", Text),
    Column("pid", Integer),
    Column("request_id", Text),
)


async def note(label: str, step: str) -> None:
    row = {"label": label, "step": step, "pid": os.getpid(), "request_id": request_id.current()}
    async with WriteSession() as session:
        await session.execute(insert(effect).values(row))


@Resource
async def thing(settings: CoreSettings) -> AsyncIterator[str]:
    yield "used"
    await note("thing", "closed")


@job
async def work(label: str, duration_s: float = 0) -> None:
    await note(label, "begun")
    await asyncio.sleep(duration_s)
    await note(label, thing.get())


@job(retries=1)
async def fail(label: str) -> None:
    await note(label, "begun")
    raise ValueError(f"{label} is wrong")


@job
async def die(label: str) -> None:
    """Kill the process of the first run, or of every run."""
    if await _is_first(label) or label == "always":
        os.kill(os.getpid(), signal.SIGKILL)
    await note(label, "done")


@job
async def leave(label: str) -> None:
    """End the event loop of the first run."""

    async def end() -> None:
        raise SystemExit(3)

    if await _is_first(label):
        await asyncio.create_task(end())
    await note(label, "done")


@job
async def need(label: str) -> None:
    """Find a dependency unavailable in the first run."""
    if await _is_first(label):
        raise Unavailable("A dependency is away.")
    await note(label, "done")


@job
async def survive(label: str) -> None:
    """Take too long in the first run."""
    if await _is_first(label):
        await asyncio.sleep(60)
    await note(label, "done")


@job
async def block(label: str) -> None:
    """Hold the event loop for longer than the deadline."""
    await note(label, "begun")
    time.sleep(60)  # noqa: ASYNC251


@job
async def hold(label: str, path: str) -> None:
    """Go on when a test has made the file; say so beside it."""
    await note(label, "begun")
    while not Path(path).exists():
        await asyncio.sleep(0.02)
    Path(f"{path}.seen").touch()
    await note(label, "done")


def collector() -> str:
    """Return how this process collects garbage."""
    has_imports = gc.get_freeze_count() > FEWEST_IMPORTED
    return f"{gc.get_threshold()}, {'without' if has_imports else 'with'} the imported objects"


@job
async def collect(label: str) -> None:
    await note(label, collector())


# Other tests count the jobs that wait.
if "TICKS" in os.environ:

    @every(timedelta(seconds=1))
    @job
    async def tick() -> None:
        await note("tick", "ran")


async def _is_first(label: str) -> bool:
    await note(label, "begun")
    runs = select(func.count()).where(effect.c.label == label, effect.c.step == "begun")
    return await ReadSession().scalar(runs) == 1


JOBS = {
    each.name.rpartition(".")[2]: each
    for each in (work, fail, die, leave, need, survive, block, hold, collect)
}
