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
from types import FrameType

from app.core.telemetry.activity import Activity

APP = Path(__file__).parents[2]

logger = logging.getLogger("app.blocked")


@contextmanager
def watching(limit_ms: int) -> Iterator[None]:
    """Log each call that holds this event loop for longer than `limit_ms`; 0 logs none."""
    ended = threading.Event()
    if limit_ms:
        arguments = (asyncio.get_running_loop(), threading.get_ident(), limit_ms / 1000, ended)
        threading.Thread(target=_watch, args=arguments, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _watch(
    loop: asyncio.AbstractEventLoop, thread: int, limit_s: float, ended: threading.Event
) -> None:
    while not ended.wait(limit_s / 4):
        answered = threading.Event()
        # The loop may be closed.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(answered.set)
        if answered.wait(limit_s / 2):
            continue
        before = _calls(thread)
        if answered.wait(limit_s / 2) or asyncio.current_task(loop) is None:
            continue
        now = _calls(thread)
        # Several short calls are not one long call.
        if now[0] in before:
            message = "%s holds the event loop for more than %d ms, in %s"
            places = _place(now[0]), limit_s * 1000, _place(now[-1])
            logger.warning(message, *places, extra=_request(thread))
        # Frames keep the variables of their calls.
        del before, now
        while not answered.wait(limit_s) and not ended.is_set():
            pass


def _calls(thread: int) -> list[FrameType]:
    """Return the calls in a thread from the team's outermost one inwards, or the innermost one."""
    frames = [frame for frame, _ in traceback.walk_stack(sys._current_frames().get(thread))]
    own = [
        number
        for number, frame in enumerate(frames)
        if (path := Path(frame.f_code.co_filename)).is_relative_to(APP)
        and not path.is_relative_to(APP / "core")
    ]
    return frames[max(own, default=0) :: -1]


def _request(thread: int) -> dict[str, str]:
    """Return the log fields of the request that `Telemetry` measures in a thread."""
    for frame, _ in traceback.walk_stack(sys._current_frames().get(thread)):
        if isinstance(request := frame.f_locals.get("request"), Activity):
            return {"request_id": request.request_id, "route": request.route}
    return {}


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
