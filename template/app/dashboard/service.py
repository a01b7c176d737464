"""An overview, read in parallel."""

import asyncio
from typing import Any

from sqlalchemy import func, select

from app.core.concurrency import Outcome, outcome
from app.core.database import ReadSession
from app.core.pagination import PageParams
from app.dashboard.schemas import Dashboard, UserCounts
from app.posts.models import Post
from app.posts.schemas import PostRead
from app.posts.service import list_posts
from app.users.models import User

PART_TIMEOUT_S = 1.0
LATEST_POSTS = 5


async def overview(session: ReadSession) -> Dashboard:
    """All parts at once, each on a connection of its own; one that fails or hangs is left out."""
    users, posts, latest = await asyncio.gather(
        outcome("users", count_users(session), timeout_s=PART_TIMEOUT_S),
        outcome("posts", count_posts(session), timeout_s=PART_TIMEOUT_S),
        outcome("latest_posts", latest_posts(session), timeout_s=PART_TIMEOUT_S),
    )
    parts: dict[str, Outcome[Any]] = {
        "users": users,
        "posts": posts,
        "latest_posts": latest,
    }
    return Dashboard(
        users=users.value,
        posts=posts.value,
        latest_posts=latest.value,
        missing=[name for name, part in parts.items() if part.error],
    )


async def count_users(session: ReadSession) -> UserCounts:
    registered, welcomed = (
        await session.rows(select(func.count(), func.count(User.welcomed_at)).select_from(User))
    )[0]
    return UserCounts(registered=registered, welcomed=welcomed)


async def count_posts(session: ReadSession) -> int:
    return await session.scalar(select(func.count()).select_from(Post)) or 0


async def latest_posts(session: ReadSession) -> list[PostRead]:
    page = await list_posts(session, PageParams(limit=LATEST_POSTS))
    return [PostRead.model_validate(row) for row in page.items]
