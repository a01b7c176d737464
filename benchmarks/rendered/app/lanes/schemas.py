"""What is listed, how much of it, and the users that are compared: as all services answer them."""

from datetime import datetime
from uuid import UUID

from app.posts.schemas import PostRead
from pydantic import BaseModel, ConfigDict

POSTS = 20
# One more tells a page whether there is another, so that is what other services read.
POSTS_READ = POSTS + 1
USERS = 1000


class UserRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    email: str
    name: str
    created_at: datetime


class Posts(BaseModel):
    items: list[PostRead]
