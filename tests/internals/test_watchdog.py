"""A call that holds the event loop is named, and many short calls are not."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from blockbuster import BlockBuster

from app.core.settings.telemetry import TelemetrySettings
from app.core.telemetry import watchdog
from app.core.telemetry.requests import Telemetry

# As of a file of the team.
SOURCE = """
import time

def inner(seconds, is_seen):
    ends_s = time.monotonic() + seconds
    while time.monotonic() < ends_s and not is_seen():
        time.sleep(0.02)

async def handler(seconds, is_seen=lambda: False):
    inner(seconds, is_seen)
"""
FILE = str(watchdog.APP / "orders" / "service.py")
own: dict[str, Any] = {}
exec(compile(SOURCE, FILE, "exec"), own)  # noqa: S102
Handler = Callable[..., Any]
handler: Handler = own["handler"]


@pytest.fixture(autouse=True)
def allowed(blockbuster: BlockBuster) -> None:
    blockbuster.functions["time.sleep"].can_block_in("orders/service.py", "inner")


def lines(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [each for each in caplog.records if each.name == "app.blocked"]


async def test_the_handler_its_request_and_the_call_are_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        # On a busy machine, the thread of the watchdog is late.
        await handler(30, lambda: bool(lines(caplog)))

    scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"x-request-id", b"mine")]}
    with watchdog.watching(100):
        await asyncio.sleep(0.05)
        await Telemetry(application, settings=TelemetrySettings())(scope, None, None)  # type: ignore[arg-type]
        await asyncio.sleep(0.3)
    (line,) = lines(caplog)

    assert line.levelno == logging.WARNING
    # The guard against blocking calls wraps `time.sleep`.
    named = f"handler ({FILE}:10) holds the event loop for more than 100 ms, in "
    assert line.getMessage().startswith(named)
    assert (vars(line)["request_id"], vars(line)["route"]) == ("mine", "unmatched")


async def test_many_short_calls_are_not_a_long_one(caplog: pytest.LogCaptureFixture) -> None:
    with watchdog.watching(1000):
        # The loop answers only after all of them.
        await asyncio.gather(*(handler(0.02) for _ in range(75)))
        await asyncio.sleep(0.3)
    assert lines(caplog) == []


async def test_nothing_is_watched_by_default(caplog: pytest.LogCaptureFixture) -> None:
    assert TelemetrySettings().blocked_loop_ms == 0
    with watchdog.watching(0):
        await handler(0.3)
        await asyncio.sleep(0.3)
    assert lines(caplog) == []
