"""Posts over HTTP."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from app.core.database import ReadSessionDep, WriteSessionDep
from app.core.http_caching import public
from app.core.pagination import Page, PageParams, page_response
from app.posts import service
from app.posts.schemas import PostCreate, PostDetail, PostRead, PostUpdate

router = APIRouter(prefix="/posts", tags=["posts"])


class PostParams(PageParams):
    author_id: UUID | None = None


@router.post("", status_code=201)
async def publish(data: PostCreate, session: WriteSessionDep) -> PostDetail:
    """Publish a post."""
    return await service.publish(session, data)


@router.get("", response_model=Page[PostRead])
# An author's new name shows when that time is over: each rename would end all pages of posts.
@public(ttl_s=10, stale_s=10, tags=("posts",))
async def list_posts(params: Annotated[PostParams, Query()], session: ReadSessionDep) -> Response:
    """Posts with their authors, the newest first."""
    page = await service.list_posts(session, params, author_id=params.author_id)
    return page_response(params, page)


@router.get("/{post_id}")
@public(ttl_s=10, tags=("post:{post_id}",))
async def read_post(post_id: UUID, session: ReadSessionDep) -> PostDetail:
    """One post with its author and tags."""
    return await service.get_post(session, post_id)


@router.patch("/{post_id}")
async def change_post(post_id: UUID, data: PostUpdate, session: WriteSessionDep) -> PostDetail:
    """Change the fields that are sent."""
    return await service.change(session, post_id, data)
