"""What clients receive."""

from pydantic import BaseModel

from app.posts.schemas import PostRead


class UserCounts(BaseModel):
    registered: int
    welcomed: int


class Dashboard(BaseModel):
    """A part that could not be read in time is null and named in `missing`."""

    users: UserCounts | None
    posts: int | None
    latest_posts: list[PostRead] | None
    missing: list[str]
