"""A service whose job calls another one, `UPSTREAM`; a test stops it meanwhile."""

import os
from collections.abc import AsyncIterator
from importlib import import_module

from fastapi import APIRouter

from app.core.application import create_app
from app.core.http_client import http
from app.core.jobs import enqueue, job
from app.core.operations.resource import Resource
from app.core.settings import CoreSettings
from app.settings import get_settings
from tests.internals.declared import ANYBODY

UPSTREAM = os.environ.get("UPSTREAM", "")
router = APIRouter(dependencies=ANYBODY)


@Resource
async def desk(_: CoreSettings) -> AsyncIterator[str]:
    yield "open"
    await http.get(f"{UPSTREAM}/closes", into=bytes)


@job
async def call() -> None:
    await http.get(f"{UPSTREAM}/begins", into=bytes)
    await http.get(f"{UPSTREAM}/ends?desk={desk.get()}", into=bytes)


@router.post("/call")
async def enqueue_call() -> None:
    await enqueue(None, call)


app = create_app(get_settings(), router, title="calling", description="", resources=[desk])

if __name__ == "__main__":
    # The worker finds jobs by the name of their module.
    calling = import_module("tests.internals.calling")
    worker = import_module("app.core.jobs.postgres_worker")
    worker.create_worker(get_settings(), [calling.desk])()
