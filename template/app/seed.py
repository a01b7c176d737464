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

PEOPLE = {
    "Ada Lovelace": "Notes on the Analytical Engine",
    "Grace Hopper": "The Education of a Computer",
    "Barbara Liskov": "Programming with Abstract Data Types",
}


async def seed() -> None:
    """Add the users with one post each, unless the database has users already."""
    async with resources(get_settings(), RESOURCES, pool_size=1):
        if (await users.list_users(ReadSession(), PageParams(limit=1))).items:
            return
        async with WriteSession() as session:
            for name, title in PEOPLE.items():
                email = f"{name.split()[0].lower()}@example.com"
                user = await users.register(session, UserCreate(email=email, name=name))
                post = PostCreate(
                    author_id=user.id, title=title, body="Worth reading.", tags=["computing"]
                )
                await posts.publish(session, post)


if __name__ == "__main__":
    asyncio.run(seed())
