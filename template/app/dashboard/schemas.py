"""The JSON that clients receive."""

from typing import Annotated

from pydantic import BaseModel, Field

from app.posts.schemas import PostRead


class UserCounts(BaseModel):
    registered: int
    welcomed: int


class Dashboard(BaseModel):
    """A part that fails or takes too long is null, and `missing` names it."""

    users: UserCounts | None
    posts: int | None
    latest_posts: Annotated[list[PostRead], Field(max_length=5)] | None
    missing: list[str]
