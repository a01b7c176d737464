"""The service with an endpoint that says what its process holds, for gunicorn."""

import asyncio
import os
from collections import Counter

import psutil

from app.core.cache import no_store
from app.main import app

__all__ = ["app"]


@app.get("/held")
@no_store
async def held() -> dict[str, int | dict[int, int]]:
    """Return tasks, descriptors without connections, own bytes, and connections by server port."""
    process = psutil.Process()
    sockets = [each for each in process.net_connections("inet") if each.raddr]
    own = int(os.environ["PORT"])
    return {
        "tasks": len(asyncio.all_tasks()),
        "descriptors": process.num_fds() - len(sockets),
        "bytes": process.memory_full_info().uss,
        "connections": dict(Counter(each.raddr.port for each in sockets if each.laddr.port != own)),
    }
