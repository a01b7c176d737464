"""Users over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.core.database import ReadSessionDep, WriteSessionDep
from app.core.http_caching import public
from app.core.pagination import Page, PageParams, page_response
from app.core.serialization import JSON
from app.users import service
from app.users.schemas import UserCreate, UserRead, UserUpdate

router = APIRouter(prefix="/users", tags=["users"])


@router.post("", status_code=201)
async def register(data: UserCreate, session: WriteSessionDep) -> UserRead:
    """Register a user; the welcome message follows in the background."""
    return await service.register(session, data)


@router.get("", response_model=Page[UserRead])
@public(ttl_s=10, stale_s=10, tags=("users",))
async def list_users(params: Annotated[PageParams, Query()], session: ReadSessionDep) -> Response:
    """Users, the newest first."""
    return page_response(params, await service.list_users(session, params))


@router.get("/{user_id}", response_model=UserRead)
@public(ttl_s=60, tags=("user:{user_id}",))
async def read_user(user_id: UUID, session: ReadSessionDep) -> Response:
    """One user."""
    return Response(await service.get_user_json(session, user_id), media_type=JSON)


@router.patch("/{user_id}", response_model=UserRead)
async def change_user(user_id: UUID, data: UserUpdate, session: WriteSessionDep) -> Response:
    """Change the fields that are sent."""
    return Response(await service.change_json(session, user_id, data), media_type=JSON)
