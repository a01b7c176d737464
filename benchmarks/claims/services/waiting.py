"""Waits for something else, and the ways to do so: in the event loop, in threads, and, wrongly, blocking the loop."""

import asyncio
import time

from fastapi import FastAPI

# As a call to another service takes.
CALL_S = 0.1

app = FastAPI()


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.get("/awaited")
async def awaited() -> dict[str, str]:
    await asyncio.sleep(CALL_S)
    return {"status": "done"}


@app.get("/blocking")
async def blocking() -> dict[str, str]:
    # `requests.get`, a synchronous database driver and `time.sleep` do the same to the loop.
    time.sleep(CALL_S)
    return {"status": "done"}


@app.get("/thread")
def thread() -> dict[str, str]:
    # `def`: FastAPI runs it in one of 40 threads.
    time.sleep(CALL_S)
    return {"status": "done"}
