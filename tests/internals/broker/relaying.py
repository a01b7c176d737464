"""A process with nothing but its relay, which kills it between claim and publication."""

import asyncio
import os
import signal
from typing import Any

from app.core.jobs.relay import relay
from app.core.operations import lifecycle
from app.settings import get_settings


async def kill(_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


async def main() -> None:
    vars(relay)["publish"] = kill
    async with lifecycle.resources(get_settings(), pool_size=2):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
