"""What another service announces; one HTTP client, open for as long as the process serves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import ClientSession
from app.core.settings import load
from fastapi import FastAPI
from pydantic import BaseModel, Field, HttpUrl
from pydantic_settings import BaseSettings


class AnnouncementSettings(BaseSettings):
    upstream_url: HttpUrl = Field(description="The service that answers `GET /announcement`.")


class Announcement(BaseModel):
    announcement: str


class Announcements:
    """The client of this process; opened by the lifespan, in the event loop that uses it."""

    def __init__(self) -> None:
        self._client: ClientSession | None = None

    def open(self, settings: AnnouncementSettings) -> None:
        """Make the client; the first request connects."""
        self._client = ClientSession(str(settings.upstream_url), raise_for_status=True)

    async def close(self) -> None:
        """Close all connections."""
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def current(self) -> str:
        """What is announced now.

        Raises:
            aiohttp.ClientError: when the service cannot be reached or answers with an error.
            pydantic.ValidationError: when its answer is not an announcement.
        """
        if self._client is None:
            raise RuntimeError("The client is not open: run inside `lifespan`.")
        async with self._client.get("/announcement") as response:
            return Announcement.model_validate_json(await response.read()).announcement


announcements = Announcements()


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    """For the router: FastAPI runs it inside the application's own."""
    announcements.open(load(AnnouncementSettings))
    try:
        yield
    finally:
        await announcements.close()
