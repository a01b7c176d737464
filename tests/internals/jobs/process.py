"""A worker with jobs of tests, which leave their marks in files."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sqlalchemy import func, select

from app.core.concurrency import run_in_thread
from app.core.database import WriteSession
from app.core.jobs import job
from app.core.jobs.postgres_worker import create_worker
from app.core.operations.resource import Resource
from app.resources import RESOURCES
from app.settings import get_settings


def append(path: str, line: str) -> None:
    """Add a line in one write, so that several processes may do so."""
    with Path(path).open("a") as file:
        file.write(f"{line}\n")


@job
async def mark(path: str, line: str) -> None:
    await asyncio.sleep(0.02)
    append(path, line)


@job
async def hang_once(path: str) -> None:
    """Note the process and hang; end when run again."""
    first = not Path(path).exists()
    append(path, str(os.getpid()))
    if first:
        await asyncio.sleep(60)


@job
async def die(path: str) -> None:
    append(path, str(os.getpid()))
    os._exit(9)


@job
async def block(path: str) -> None:
    """Hold the event loop for longer than any deadline."""
    append(path, str(os.getpid()))
    time.sleep(60)  # noqa: ASYNC251 - that is the point


@job
async def go_on(path: str) -> None:
    """Ignore the cancellation of a stop."""
    append(path, "began")
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            append(path, "goes on")


@job
async def write_slowly(path: str) -> None:
    """Use the database before and after the worker was told to stop."""
    async with WriteSession() as session:
        await session.scalar(select(func.now()))
        append(path, "began")
        await asyncio.sleep(1)
        await session.scalar(select(func.now()))
    append(path, "ended")


@job
async def hang_in_thread(path: str) -> None:
    append(path, "began")
    await run_in_thread(time.sleep, 60, deadline_s=60)


@Resource
async def lost(_: object) -> AsyncIterator[None]:
    """A resource whose task fails after the start, if a test asks for it."""

    async def lose() -> None:
        await asyncio.sleep(0.5)
        raise ConnectionError("lost")

    async with asyncio.TaskGroup() as group:
        if "LOSES_RESOURCE" in os.environ:
            group.create_task(lose())
        yield


worker = create_worker(get_settings(), [*RESOURCES, lost])
