"""An overview, read in parallel."""

import asyncio
from typing import Any

from sqlalchemy import func, select

from app.core.concurrency import Outcome, outcome
from app.core.database import PreparedRead, ReadSession
from app.core.serialization import to_json
from app.posts.models import Post
from app.posts.service import LATEST_POSTS
from app.users.models import User

PART_TIMEOUT_S = 1.0

# The columns of `UserCounts`.
USERS = PreparedRead(
    select(
        func.count().label("registered"), func.count(User.welcomed_at).label("welcomed")
    ).select_from(User)
)
POSTS = PreparedRead(select(func.count().label("number")).select_from(Post))


async def overview_json(session: ReadSession) -> bytes:
    """All parts at once, each on a connection of its own; one that fails or hangs is left out."""
    users, posts, latest_posts = await asyncio.gather(
        outcome("users", session.fetch(USERS), timeout_s=PART_TIMEOUT_S),
        outcome("posts", session.fetch(POSTS), timeout_s=PART_TIMEOUT_S),
        outcome("latest_posts", session.fetch(LATEST_POSTS), timeout_s=PART_TIMEOUT_S),
    )
    parts: dict[str, Outcome[Any]] = {
        "users": users,
        "posts": posts,
        "latest_posts": latest_posts,
    }
    return to_json(
        {
            "users": users.value[0] if users.value else None,
            "posts": posts.value[0]["number"] if posts.value else None,
            "latest_posts": latest_posts.value,
            "missing": [name for name, part in parts.items() if part.error],
        }
    )
