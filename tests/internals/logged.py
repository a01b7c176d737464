"""An application whose routes leave traces in the log; tests run it under gunicorn."""

import asyncio
from collections.abc import AsyncIterator
from logging import getLogger

from fastapi import APIRouter
from fastapi.responses import StreamingResponse

from app.core.application import create_app
from app.core.http.problems import Unavailable
from app.settings import get_settings
from tests.internals.declared import ANYBODY

router = APIRouter(dependencies=ANYBODY)


@router.get("/say/{text}")
async def say(text: str) -> None:
    getLogger("app.logged").info("they say %s", text, extra={"size": len(text)})


@router.get("/fail/{number}")
async def fail(number: int) -> None:
    raise LookupError(f"no\nINFO forged {number}")


@router.get("/unavailable")
async def unavailable() -> None:
    raise Unavailable("Come back later.")


@router.get("/warn")
async def warn() -> None:
    # Not `warnings.warn`, whose filters are those of the environment.
    getLogger("py.warnings").warning("deprecated")


@router.get("/endless")
async def endless() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"part"
            await asyncio.sleep(0.01)

    return StreamingResponse(parts())


app = create_app(get_settings(), router, title="logged", description="for tests")
