"""What clients receive."""

from datetime import datetime
from uuid import UUID

from app.posts.schemas import PostRead
from pydantic import BaseModel

from app.lanes.schemas import UserRead


class AuthorSummary(BaseModel):
    """An author without posts has zeros, and no dates."""

    posts: int
    characters: int
    first_post_at: datetime | None
    last_post_at: datetime | None


class OwnPost(BaseModel):
    id: UUID
    title: str
    created_at: datetime


class AuthorDashboard(BaseModel):
    """`announcement` is null when the service that makes them gives none in time."""

    user: UserRead
    summary: AuthorSummary
    own_posts: list[OwnPost]
    latest_posts: list[PostRead]
    announcement: str | None
