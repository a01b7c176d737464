"""One user, 20 posts, 1,000 users and a new name, each in every lane to the database.

The lane is a part of the path, and all else that HTTP costs is the same for all of them. Those that
differ in one operation only have the others from the lane that they vary.
"""

from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeVar
from uuid import UUID

from app.core.database import ReadSession, ReadSessionDep, WriteSession, WriteSessionDep
from app.core.http.problems import NotFound
from app.core.http.serialization import JSON
from app.users.schemas import Name
from fastapi import APIRouter, Response
from pydantic import BaseModel, ConfigDict

from app.lanes import core, orm, prepared
from app.lanes.schemas import Posts, UserRead

T = TypeVar("T")


class Lane(NamedTuple):
    """Models of the answers, or their JSON; None when there is no such user."""

    read_user: Callable[[ReadSession, UUID], Awaitable[UserRead | bytes | None]]
    newest_posts: Callable[[ReadSession], Awaitable[Posts | bytes]]
    newest_users: Callable[[ReadSession], Awaitable[list[UserRead] | bytes]]
    rename_user: Callable[[WriteSession, UUID, str], Awaitable[UserRead | bytes | None]]


LANES = {
    "orm": Lane(orm.read_user, orm.newest_posts, orm.newest_users, orm.rename_user),
    "orm-selectinload": Lane(
        orm.read_user, orm.newest_posts_selectinload, orm.newest_users, orm.rename_user
    ),
    "core": Lane(core.read_user, core.newest_posts, core.newest_users, core.rename_user),
    "prepared": Lane(
        prepared.read_user, prepared.newest_posts, prepared.newest_users, prepared.rename_user
    ),
    "prepared-autocommit": Lane(
        prepared.read_user,
        prepared.newest_posts,
        prepared.newest_users,
        prepared.rename_user_autocommit,
    ),
}

router = APIRouter(prefix="/lanes/{lane}", tags=["lanes"])


class NameChange(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name


@router.get("/users/{user_id}", response_model=UserRead)
async def read_user(lane: str, user_id: UUID, session: ReadSessionDep) -> UserRead | Response:
    return answer(await LANES[lane].read_user(session, user_id))


@router.patch("/users/{user_id}", response_model=UserRead)
async def rename_user(
    lane: str, user_id: UUID, data: NameChange, session: WriteSessionDep
) -> UserRead | Response:
    return answer(await LANES[lane].rename_user(session, user_id, data.name))


@router.get("/posts", response_model=Posts)
async def newest_posts(lane: str, session: ReadSessionDep) -> Posts | Response:
    return answer(await LANES[lane].newest_posts(session))


@router.get("/reports/users", response_model=list[UserRead])
async def newest_users(lane: str, session: ReadSessionDep) -> list[UserRead] | Response:
    return answer(await LANES[lane].newest_users(session))


def answer(content: T | bytes | None) -> T | Response:
    """Raises NotFound for None."""
    if content is None:
        raise NotFound("There is no such user.")
    return Response(content, media_type=JSON) if isinstance(content, bytes) else content
