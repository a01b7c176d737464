"""Reports about users and what they write."""

import asyncio
from uuid import UUID

from app.core.concurrency import outcome
from app.core.database import PreparedRead, ReadSession
from app.core.pagination import PageParams
from app.core.problems import NotFound
from app.core.serialization import to_json
from app.posts.models import Post
from app.posts.schemas import PostRead
from app.posts.service import list_posts
from app.users.models import User
from app.users.schemas import UserRead
from sqlalchemy import bindparam, func, select

from app.reports.announcements import announcements
from app.reports.schemas import AuthorDashboard, AuthorSummary, OwnPost

NEWEST_USERS = 1000
DASHBOARD_POSTS = 5
ANNOUNCEMENT_TIMEOUT_S = 1.0

NEWEST = PreparedRead(
    select(User.id, User.email, User.name, User.created_at)
    .order_by(User.created_at.desc(), User.id.desc())
    .limit(NEWEST_USERS)
)
SUMMARY = PreparedRead(
    select(
        func.count().label("posts"),
        func.coalesce(func.sum(func.length(Post.body)), 0).label("characters"),
        func.min(Post.created_at).label("first_post_at"),
        func.max(Post.created_at).label("last_post_at"),
    ).where(Post.author_id == bindparam("author_id"))
)


async def newest_users_json(session: ReadSession) -> bytes:
    """The newest users as JSON, the newest first."""
    return to_json(await session.fetch(NEWEST))


async def summarize(session: ReadSession, author_id: UUID) -> AuthorSummary:
    """What an author has written, in numbers; zeros for somebody who has not."""
    rows = await session.fetch(SUMMARY, author_id=author_id)
    return AuthorSummary.model_validate(rows[0])


async def dashboard(session: ReadSession, author_id: UUID) -> AuthorDashboard:
    """All parts at once, each read on a connection of its own; an announcement may be missing.

    Raises:
        NotFound: when there is no such user.
    """
    user, summary, own_posts, latest_posts, announcement = await asyncio.gather(
        get_user(session, author_id),
        summarize(session, author_id),
        newest_posts_of(session, author_id),
        newest_posts(session),
        outcome("announcement", announcements.current(), timeout_s=ANNOUNCEMENT_TIMEOUT_S),
    )
    return AuthorDashboard(
        user=user,
        summary=summary,
        own_posts=own_posts,
        latest_posts=latest_posts,
        announcement=announcement.value,
    )


async def get_user(session: ReadSession, user_id: UUID) -> UserRead:
    user = await session.scalar(select(User).where(User.id == user_id))
    if user is None:
        raise NotFound(f"There is no user {user_id}.")
    return UserRead.model_validate(user)


async def newest_posts_of(session: ReadSession, author_id: UUID) -> list[OwnPost]:
    rows = await session.rows(
        select(Post.id, Post.title, Post.created_at)
        .where(Post.author_id == author_id)
        .order_by(Post.created_at.desc(), Post.id.desc())
        .limit(DASHBOARD_POSTS)
    )
    return [OwnPost.model_validate(row) for row in rows]


async def newest_posts(session: ReadSession) -> list[PostRead]:
    page = await list_posts(session, PageParams(limit=DASHBOARD_POSTS))
    return [PostRead.model_validate(row) for row in page.items]
