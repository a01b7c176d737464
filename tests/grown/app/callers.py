"""The settings and the caller of a request, as dependencies."""

from typing import Annotated

from fastapi import Depends, Header
from sqlalchemy import select

from app.core.database import ReadSessionDep
from app.core.http.problems import NotFound
from app.orders.models import Group
from app.settings import Settings, get_settings


async def current_settings() -> Settings:
    """Return the settings, which the process reads once. Without `async`, it needs a thread."""
    return get_settings()


async def current_caller(session: ReadSessionDep, x_group: Annotated[str, Header()]) -> Group:
    """Return the group that calls; FastAPI calls this once for each request."""
    group = await session.scalar(select(Group).where(Group.name == x_group))
    if group is None:
        raise NotFound("There is no such group.")
    return group


SettingsDep = Annotated[Settings, Depends(current_settings)]
CallerDep = Annotated[Group, Depends(current_caller)]
