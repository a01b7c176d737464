"""The JSON that clients receive."""

from pydantic import BaseModel

from app.posts.schemas import PostRead


class UserCounts(BaseModel):
    registered: int
    welcomed: int


class Dashboard(BaseModel):
    """A part that fails or takes too long is null, and `missing` names it."""

    users: UserCounts | None
    posts: int | None
    latest_posts: list[PostRead] | None
    missing: list[str]
