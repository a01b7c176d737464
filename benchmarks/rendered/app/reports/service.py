"""Reports about users and what they write."""

import asyncio
from uuid import UUID

from app.core.concurrency import partial_result
from app.core.database import PreparedRead, ReadSession
from app.core.http.problems import NotFound
from app.core.http.serialization import to_json
from app.posts.models import Post
from app.posts.service import LATEST_POSTS
from app.users.models import User
from app.users.service import COLUMNS, USER
from sqlalchemy import bindparam, func, select

from app.reports.announcements import announcements

NEWEST_USERS = 1000
OWN_POSTS = 5
ANNOUNCEMENT_TIMEOUT_S = 1.0

NEWEST = PreparedRead(select(*COLUMNS).order_by(User.created_at.desc(), User.id.desc()).limit(NEWEST_USERS))
# The columns of `AuthorSummary`; zeros for somebody who has not written.
SUMMARY = PreparedRead(
    select(
        func.count().label("posts"),
        func.coalesce(func.sum(func.length(Post.body)), 0).label("characters"),
        func.min(Post.created_at).label("first_post_at"),
        func.max(Post.created_at).label("last_post_at"),
    ).where(Post.author_id == bindparam("author_id"))
)
# The columns of `OwnPost`.
POSTS_OF = PreparedRead(
    select(Post.id, Post.title, Post.created_at)
    .where(Post.author_id == bindparam("author_id"))
    .order_by(Post.created_at.desc(), Post.id.desc())
    .limit(OWN_POSTS)
)


async def newest_users_json(session: ReadSession) -> bytes:
    """The newest users as JSON, the newest first."""
    return to_json(await session.fetch(NEWEST))


async def summary_json(session: ReadSession, author_id: UUID) -> bytes:
    """What an author has written, in numbers; zeros for somebody who has not."""
    return to_json(await session.fetch_one(SUMMARY, author_id=author_id))


async def dashboard_json(session: ReadSession, author_id: UUID) -> bytes:
    """All parts at once, each read on a connection of its own; an announcement may be missing.

    Raises:
        NotFound: when there is no such user.
    """
    user, summary, own_posts, latest_posts, announcement = await asyncio.gather(
        session.fetch_one(USER, user_id=author_id),
        session.fetch_one(SUMMARY, author_id=author_id),
        session.fetch(POSTS_OF, author_id=author_id),
        session.fetch(LATEST_POSTS),
        partial_result("announcement", announcements.current(), timeout_s=ANNOUNCEMENT_TIMEOUT_S),
    )
    if user is None:
        raise NotFound(f"There is no user {author_id}.")
    return to_json(
        {
            "user": user,
            "summary": summary,
            "own_posts": own_posts,
            "latest_posts": latest_posts,
            "announcement": announcement.value,
        }
    )
