"""An application with an endpoint for each kind of work, for gunicorn.

With `waits`, the work ends with its process.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from importlib import import_module
from importlib.util import find_spec

from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import func, insert, select

from app.core.concurrency import Part, gather, run_in_process, run_in_thread
from app.core.database import ReadSession, ReadSessionDep, WriteSessionDep
from app.core.http.streams import until_stop
from tests.internals.broker.jobs import collector, effect
from tests.internals.broker.web import app
from tests.internals.computing import die, sleep
from tests.internals.declared import ANYBODY

__all__ = ["app"]

LONG_S = 60
begun: set[str] = set()


@app.get("/collector", dependencies=ANYBODY)
async def collector_of_web() -> str:
    return collector()


@app.get("/begun", dependencies=ANYBODY)
async def all_begun() -> list[str]:
    return sorted(begun)


@app.get("/write", dependencies=ANYBODY)
async def write(session: WriteSessionDep, waits: bool = False) -> None:
    await session.execute(insert(effect).values(label="write", step=f"{waits}"))
    if waits:
        begun.add("write")
        await asyncio.sleep(LONG_S)


@app.get("/parts", dependencies=ANYBODY)
async def parts(waits: bool = False) -> None:
    await gather(Part("part", read(waits)), timeout_s=LONG_S)


async def read(waits: bool) -> None:
    await ReadSession().scalar(select(func.now()))
    if waits:
        begun.add("parts")
        await asyncio.sleep(LONG_S)


@app.get("/computation", dependencies=ANYBODY)
async def computation(waits: bool = False) -> None:
    begun.add("computation")
    await run_in_process(sleep, LONG_S if waits else 0, deadline_s=LONG_S)


@app.get("/death", dependencies=ANYBODY)
async def death() -> None:
    await run_in_process(die)


@app.get("/thread", dependencies=ANYBODY)
async def thread(waits: bool = False) -> None:
    begun.add("thread")
    await run_in_thread(time.sleep, LONG_S if waits else 0, deadline_s=LONG_S)


async def reads(session: ReadSession) -> AsyncIterator[str]:
    while True:
        yield str(await session.scalar(select(func.now())))
        begun.add("stream")
        await asyncio.sleep(0.02)


@app.get("/stream", response_class=EventSourceResponse, dependencies=ANYBODY)
async def stream(session: ReadSessionDep, waits: bool = False) -> AsyncIterator[ServerSentEvent]:
    if waits:
        async for now in until_stop(reads(session)):
            yield ServerSentEvent(data=now)
    else:
        yield ServerSentEvent(data=await anext(reads(session)))


if find_spec("app.core.http_client"):
    http = import_module("app.core.http_client").http

    @app.get("/call", dependencies=ANYBODY)
    async def call(url: str) -> None:
        begun.add("call")
        await http.get(url, into=dict, timeout_s=LONG_S)
