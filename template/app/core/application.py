"""Builds the FastAPI application: what each request meets before it reaches a router."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from starlette.middleware.body_limit import RequestBodyLimitMiddleware

from app.core import health, jobs, problems
from app.core.body_limit import BodyLimit
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
    app = FastAPI(
        title=title,
        description=description,
        lifespan=lifespan,
        # A redirect to the path without its slash would go to whatever host the request names.
        redirect_slashes=False,
        responses=problems.RESPONSES,
    )
    # Not FastAPI's `max_body_size`: it stands outside of all middleware and answers in plain text.
    app.add_middleware(RequestBodyLimitMiddleware, max_body_size=settings.max_body_bytes)
    app.add_middleware(BodyLimit, max_body_bytes=settings.max_body_bytes)
    problems.install(app)
    app.include_router(health.router)
    app.include_router(router)
    return app
