"""The server of a worker, in the process of a test."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from uvicorn import Config

from app.core.server.httptools import HttpTools
from app.core.server.worker import DrainingServer
from app.core.settings.server import ServerSettings


@asynccontextmanager
async def served(
    application: Any, ended: list[str], *, ws: Any = "none", **settings: float
) -> AsyncIterator[tuple[DrainingServer, socket.socket]]:
    """Serve in this process, and stop at the end as a worker does."""

    async def with_lifespan(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            await application(scope, receive, send)
            return
        for event in ("startup", "shutdown"):
            await receive()
            ended.append(event)
            await send({"type": f"lifespan.{event}.complete"})

    config = Config(
        with_lifespan, http=HttpTools, log_config=None, timeout_graceful_shutdown=1, ws=ws
    )
    given: dict[str, Any] = dict(settings)
    running = DrainingServer(config, ServerSettings.model_construct(**given))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    # Not `serve`, which handles signals.
    task = asyncio.create_task(running._serve([listener]))
    while not running.started:
        await asyncio.sleep(0)
    try:
        yield running, listener
    finally:
        running.handle_exit(signal.SIGTERM, None)
        await task
