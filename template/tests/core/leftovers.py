"""Tasks that a handler or a job of the team leaves behind."""

import asyncio
import os
import sys
from collections.abc import Collection
from types import FrameType
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from tests.core.serving import ROOT

APP = str(ROOT / "app") + os.sep
# Core ends its own tasks, and so does a resource.
EXEMPT = (APP + "core" + os.sep, APP + "resources.py")
ADVICE = """\
These tasks still run. Await each one, in an asyncio.TaskGroup for example, make it a job, or start
it in a resource of app/resources.py, which ends it:
"""

# The place in the team's code that made each task.
made: WeakKeyDictionary[asyncio.Task[Any], str] = WeakKeyDictionary()


def make_task(
    loop: asyncio.AbstractEventLoop, coroutine: Any, /, **options: Any
) -> asyncio.Task[Any]:
    """Make a task and remember its place; a task factory of the event loop."""
    task = asyncio.Task(coroutine, loop=loop, **options)
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(APP):
        frame = frame.f_back
    if frame is not None and not frame.f_code.co_filename.startswith(EXEMPT):
        path = frame.f_code.co_filename.removeprefix(f"{ROOT}{os.sep}")
        made[task] = f"{path}:{frame.f_lineno}, in {frame.f_code.co_name}"
    return task


async def assert_none_left(before: Collection[asyncio.Task[Any]]) -> None:
    """Fail with the names of running tasks that are not in `before`, and cancel them."""
    for _ in range(20):  # turns of the event loop in which cancelled tasks end
        await asyncio.sleep(0)
    left = [task for task in made if not task.done() and task not in before]
    if left:
        lines = [f"{task.get_coro()} of {task.get_name()}, made at {made[task]}" for task in left]
        for task in left:
            task.cancel()
        await asyncio.wait(left, timeout=1)
        pytest.fail(ADVICE + "\n".join(lines), pytrace=False)
