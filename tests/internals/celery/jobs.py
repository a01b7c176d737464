"""Jobs for the tests of the worker; they leave their marks in a file."""

import asyncio
import os
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, select

from app.core.database import ReadSession
from app.core.http.problems import Unavailable
from app.core.jobs import job
from app.core.jobs.worker import create_worker
from app.core.telemetry import request_id
from app.settings import get_settings

celery = create_worker(get_settings())


@job
async def mark(path: str, value: UUID) -> None:
    """Write down the value and the id of the request, and that the database answers."""
    assert await ReadSession().scalar(select(func.now()))
    await asyncio.to_thread(
        Path(path).write_text, f"{type(value).__name__} {value} {request_id.current()}"
    )


@job
async def survive(path: str) -> None:
    """Hang when run for the first time, and end when run again."""
    file = Path(path)
    if not file.exists():
        file.write_text(f"pid {os.getpid()}")
        await asyncio.sleep(60)
    file.write_text("survived")


@job
async def need(path: str) -> None:
    """Find the database unavailable when run for the first time."""
    file = Path(path)
    if not file.exists():
        file.touch()
        raise Unavailable("The database cannot be reached.")
    file.write_text("again")
