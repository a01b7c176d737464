"""Entities of the ORM, and models made of them."""

from uuid import UUID

from app.core.database import ReadSession, WriteSession
from app.posts.models import Post
from app.posts.schemas import PostRead
from app.users.models import User
from sqlalchemy import select
from sqlalchemy.orm import joinedload, selectinload
from sqlalchemy.sql.base import ExecutableOption

from app.lanes.schemas import POSTS, POSTS_READ, USERS, Posts, UserRead


async def read_user(session: ReadSession, user_id: UUID) -> UserRead | None:
    user = await session.scalar(select(User).where(User.id == user_id))
    return UserRead.model_validate(user) if user else None


async def newest_posts(session: ReadSession) -> Posts:
    return await _newest_posts(session, joinedload(Post.author, innerjoin=True))


async def newest_posts_selectinload(session: ReadSession) -> Posts:
    return await _newest_posts(session, selectinload(Post.author))


async def _newest_posts(session: ReadSession, with_author: ExecutableOption) -> Posts:
    newest_first = select(Post).order_by(Post.created_at.desc(), Post.id.desc())
    posts = await session.scalars(newest_first.limit(POSTS_READ).options(with_author))
    return Posts(items=[PostRead.model_validate(post) for post in posts[:POSTS]])


async def newest_users(session: ReadSession) -> list[UserRead]:
    newest_first = select(User).order_by(User.created_at.desc(), User.id.desc())
    users = await session.scalars(newest_first.limit(USERS))
    return [UserRead.model_validate(user) for user in users]


async def rename_user(session: WriteSession, user_id: UUID, name: str) -> UserRead | None:
    """The UPDATE is sent when the session commits."""
    user = await session.scalar(select(User).where(User.id == user_id))
    if user is None:
        return None
    user.name = name
    return UserRead.model_validate(user)
