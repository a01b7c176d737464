"""Builds the FastAPI application: what each request meets before it reaches a router."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

from app.core import health, jobs, problems
from app.core.lifecycle import resources
from app.core.logs import configure_logging
from app.core.settings import CoreSettings


def create_app(
    settings: CoreSettings, router: APIRouter, *, title: str, description: str
) -> FastAPI:
    """The application around `router`: health endpoints, problem+json errors, resources.

    No `default_response_class` is set: a return annotation alone lets FastAPI go from Pydantic
    straight to bytes, and any response class turns that fast path off.

    Raises:
        ConfigurationError: when the database allows fewer connections than the settings need.
    """
    plan = settings.plan()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with resources(settings, pool_size=plan.pool_size):
            yield
            # Before the connections close: jobs that were accepted still need them.
            await jobs.drain()

    configure_logging(settings.log_level)
    app = FastAPI(title=title, description=description, lifespan=lifespan)
    problems.install(app)
    app.include_router(health.router)
    app.include_router(router)
    return app
