"""A process that is killed in the middle of a write leaves nothing of it."""

import asyncio
import signal
import sys

from sqlalchemy import insert

from app.core.database import WriteSession
from app.core.jobs.table import background_job_count

SCRIPT = """
import asyncio, os, signal
from app.core.database import WriteSession
from app.core.jobs.table import background_job_count
from app.core.operations.lifecycle import resources
from app.settings import get_settings
from sqlalchemy import insert

async def write():
    async with resources(get_settings(), pool_size=1), WriteSession() as session:
        await session.execute(insert(background_job_count).values(outcome="killed", count=1))
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(write())
"""


async def test_a_write_of_a_killed_process_is_rolled_back(database: None) -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SCRIPT)
    assert await process.wait() == -signal.SIGKILL

    # The same row again: it is neither there, nor locked for longer than this statement may take.
    async with WriteSession() as session:
        await session.execute(insert(background_job_count).values(outcome="killed", count=1))
