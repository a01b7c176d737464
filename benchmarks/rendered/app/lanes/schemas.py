"""What is listed, and how much of it."""

from app.posts.schemas import PostRead
from pydantic import BaseModel

POSTS = 20
# One more tells a page whether there is another, so that is what other services read.
POSTS_READ = POSTS + 1
USERS = 1000


class Posts(BaseModel):
    items: list[PostRead]
