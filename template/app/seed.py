"""Sample rows for development; `python -m dev` adds them after the migrations."""

import asyncio

from app.core.database import ReadSession, WriteSession
from app.core.operations.lifecycle import resources
from app.core.pagination import PageParams
from app.posts import service as posts
from app.posts.schemas import PostCreate
from app.resources import RESOURCES
from app.settings import get_settings
from app.users import service as users
from app.users.schemas import UserCreate

ADA = UserCreate(email="ada@example.com", name="Ada Lovelace")


async def seed() -> None:
    """Add a user with a post, unless the database has users already."""
    async with resources(get_settings(), RESOURCES, pool_size=1):
        if (await users.list_users(ReadSession(), PageParams(limit=1))).items:
            return
        async with WriteSession() as session:
            author = await users.register(session, ADA)
            post = PostCreate(author_id=author.id, title="Notes", body="Programs for an engine.")
            await posts.publish(session, post)


if __name__ == "__main__":
    asyncio.run(seed())
