"""A thread that names the call that holds the event loop, for development.

The debug mode of uvloop names no request and no line, and a task then costs 18 times as much.
"""

import asyncio
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import monotonic
from types import FrameType

from app.core.telemetry.activity import Activity

APP = Path(__file__).parents[2]
# A call that holds the loop for longer is reported before it ends.
MAX_S = 10

logger = logging.getLogger("app.blocked")


@contextmanager
def watching(limit_ms: int) -> Iterator[None]:
    """Log each call that holds this event loop for longer than `limit_ms`; 0 logs none."""
    ended = threading.Event()
    if limit_ms:
        loop, thread = asyncio.get_running_loop(), threading.get_ident()
        arguments = (loop, thread, limit_ms / 1000, ended)
        threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(
    loop: asyncio.AbstractEventLoop, thread: int, limit_s: float, ended: threading.Event
) -> None:
    while not ended.wait(limit_s / 4):
        answered, asked_s = threading.Event(), monotonic()
        # The loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(answered.set)
        if answered.wait(limit_s / 2):
            continue
        before = _frames(thread)
        if answered.wait(limit_s / 2) or asyncio.current_task(loop) is None:
            continue
        now = _frames(thread)
        calls, activity = _calls(now), _activity(now)
        # Several short calls are not reported as one long call.
        is_one = calls[0] in before
        stack = traceback.StackSummary.extract((call, call.f_lineno) for call in calls)
        del before, now, calls
        answered.wait(MAX_S)
        if is_one and not ended.is_set():
            _report(stack, activity, monotonic() - asked_s)


def _frames(thread: int) -> list[FrameType]:
    """Return the frames of the calls in a thread, the innermost first."""
    return [frame for frame, _ in traceback.walk_stack(sys._current_frames().get(thread))]


def _activity(frames: list[FrameType]) -> Activity | None:
    """Return the request that `Telemetry` measures in one of these calls."""
    for frame in frames:
        if isinstance(activity := frame.f_locals.get("measured"), Activity):
            return activity
    return None


def _calls(frames: list[FrameType]) -> list[FrameType]:
    """Return the calls from the outermost one of the team's code inwards, or the innermost one."""
    own = [
        number
        for number, frame in enumerate(frames)
        if (path := Path(frame.f_code.co_filename)).is_relative_to(APP)
        and not path.is_relative_to(APP / "core")
    ]
    return frames[max(own, default=0) :: -1]


def _report(stack: list[traceback.FrameSummary], activity: Activity | None, held_s: float) -> None:
    handler = stack[0]
    request = {}
    if activity is not None:
        request = {"request_id": activity.request_id, "route": activity.route}
    record = logger.makeRecord(
        logger.name,
        logging.WARNING,
        __file__,
        0,
        "%s (%s:%s) held the event loop for %d ms",
        (handler.name, handler.filename, handler.lineno, held_s * 1000),
        None,
        extra=request,
        sinfo="".join(traceback.format_list(stack)),
    )
    logger.handle(record)
