"""Reports about users and what they write."""

import asyncio
from typing import Any
from uuid import UUID

from app.core.concurrency import Part
from app.core.database import PreparedRead, ReadSession, Row, columns_of
from app.core.http.problems import NotFound
from app.posts.models import Post
from app.posts.schemas import PostRead
from sqlalchemy import bindparam, func, select

from app.lanes.prepared import NEWEST_USERS, USER
from app.reports.announcements import announcements
from app.reports.schemas import OwnPost

OWN_POSTS = 5
LATEST = 5
ANNOUNCEMENT_TIMEOUT_S = 1.0

# The columns of `AuthorSummary`; zeros for somebody who has not written.
SUMMARY = PreparedRead(
    select(
        func.count().label("posts"),
        func.coalesce(func.sum(func.length(Post.body)), 0).label("characters"),
        func.min(Post.created_at).label("first_post_at"),
        func.max(Post.created_at).label("last_post_at"),
    ).where(Post.author_id == bindparam("author_id"))
)
POSTS_OF = PreparedRead(
    select(*columns_of(OwnPost, Post))
    .where(Post.author_id == bindparam("author_id"))
    .order_by(Post.created_at.desc(), Post.id.desc())
    .limit(OWN_POSTS)
)
LATEST_POSTS = PreparedRead(
    select(*columns_of(PostRead, Post))
    .join(Post.author)
    .order_by(Post.created_at.desc(), Post.id.desc())
    .limit(LATEST)
)


async def newest_users(session: ReadSession) -> list[Row]:
    """The newest users, the newest first."""
    return await session.fetch(NEWEST_USERS)


async def summary(session: ReadSession, author_id: UUID) -> Row | None:
    """What an author has written, in numbers; zeros for somebody who has not."""
    return await session.fetch_one(SUMMARY, author_id=author_id)


async def dashboard(session: ReadSession, author_id: UUID) -> dict[str, Any]:
    """All parts at once, each read on a connection of its own; an announcement may be missing.

    Raises:
        NotFound: when there is no such user.
    """
    announcement = Part("announcement", announcements.current())
    user, numbers, own_posts, latest_posts, _ = await asyncio.gather(
        session.fetch_one(USER, user_id=author_id),
        session.fetch_one(SUMMARY, author_id=author_id),
        session.fetch(POSTS_OF, author_id=author_id),
        session.fetch(LATEST_POSTS),
        announcement.run(ANNOUNCEMENT_TIMEOUT_S),
    )
    if user is None:
        raise NotFound(f"There is no user {author_id}.")
    return {
        "user": user,
        "summary": numbers,
        "own_posts": own_posts,
        "latest_posts": latest_posts,
        "announcement": announcement.value,
    }
