"""Posts over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from app.core.database import ReadSessionDep, WriteSessionDep
from app.core.pagination import Page, PageParams
from app.posts import service
from app.posts.schemas import PostCreate, PostRead, PostUpdate

router = APIRouter(prefix="/posts", tags=["posts"])


class PostParams(PageParams):
    author_id: UUID | None = None


@router.post("", status_code=201)
async def publish(data: PostCreate, session: WriteSessionDep) -> PostRead:
    """Publish a post."""
    return await service.publish(session, data)


@router.get("")
async def list_posts(
    params: Annotated[PostParams, Query()], session: ReadSessionDep
) -> Page[PostRead]:
    """Posts with their authors, the newest first."""
    return await service.list_posts(session, params, author_id=params.author_id)


@router.get("/{post_id}")
async def read_post(post_id: UUID, session: ReadSessionDep) -> PostRead:
    """One post with its author."""
    return await service.get_post(session, post_id)


@router.patch("/{post_id}")
async def change_post(post_id: UUID, data: PostUpdate, session: WriteSessionDep) -> PostRead:
    """Change the fields that are sent."""
    return await service.change(session, post_id, data)
