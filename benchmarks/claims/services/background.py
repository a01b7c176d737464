"""Work of 50 ms that a request starts: before the response, after the response, and in a thread after the response."""

import time
from typing import Any

from fastapi import BackgroundTasks, FastAPI

WORK_S = 0.05

app = FastAPI()


def work() -> None:
    ends = time.thread_time() + WORK_S
    while time.thread_time() < ends:
        sum(range(1_000))


async def work_on_the_loop() -> None:
    work()


@app.get("/livez")
async def live() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/inline")
async def inline() -> dict[str, str]:
    work()
    return {"status": "done"}


@app.post("/background")
async def background(tasks: BackgroundTasks) -> dict[str, Any]:
    tasks.add_task(work_on_the_loop)
    return {"status": "accepted"}


@app.post("/thread")
async def thread(tasks: BackgroundTasks) -> dict[str, Any]:
    # Starlette runs a task that is no coroutine function in a thread.
    tasks.add_task(work)
    return {"status": "accepted"}
