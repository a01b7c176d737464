"""An application whose routes need a credential, and its client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from httpx2 import ASGITransport, AsyncClient

from app.core.application import create_app
from app.core.security.authentication import authenticating
from app.settings import Settings, get_settings


def app_of(router: APIRouter) -> FastAPI:
    """Return an application that answers 401 however many credentials are wrong."""
    settings = get_settings().model_copy(update={"rate_limit_failures": "999999/second"})
    return create_app(settings, router, title="things", description="for tests")


@asynccontextmanager
async def client_of(app: FastAPI, settings: Settings) -> AsyncIterator[AsyncClient]:
    """Yield a client, while credentials are checked by these settings."""
    transport = ASGITransport(app, raise_app_exceptions=False)
    async with (
        authenticating(settings),
        AsyncClient(transport=transport, base_url="http://test") as client,
    ):
        yield client
