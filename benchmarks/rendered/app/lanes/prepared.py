"""Statements that are compiled once, and JSON made of their rows without models."""

from uuid import UUID

from app.core.database import (
    PreparedRead,
    PreparedWrite,
    ReadSession,
    Row,
    WriteSession,
    columns_of,
)
from app.core.http.serialization import json_bytes
from app.posts.models import Post
from app.posts.schemas import PostRead
from app.users.models import User
from sqlalchemy import String, bindparam, select, update

from app.lanes.schemas import POSTS, POSTS_READ, USERS, UserRead

COLUMNS = columns_of(UserRead, User)
USER = PreparedRead(select(*COLUMNS).where(User.id == bindparam("user_id")))
NEWEST_USERS = PreparedRead(
    select(*COLUMNS).order_by(User.created_at.desc(), User.id.desc()).limit(USERS)
)
NEWEST_POSTS = PreparedRead(
    select(*columns_of(PostRead, Post))
    .join(Post.author)
    .order_by(Post.created_at.desc(), Post.id.desc())
    .limit(POSTS_READ)
)
RENAME = PreparedWrite(
    update(User)
    .where(User.id == bindparam("user_id"))
    .values(name=bindparam("new_name", type_=String))
    .returning(*COLUMNS)
)


async def read_user(session: ReadSession, user_id: UUID) -> bytes | None:
    user = await session.fetch_one(USER, user_id=user_id)
    return json_bytes(user) if user else None


async def newest_posts(session: ReadSession) -> bytes:
    return json_bytes({"items": (await session.fetch(NEWEST_POSTS))[:POSTS]})


async def newest_users(session: ReadSession) -> bytes:
    return json_bytes(await session.fetch(NEWEST_USERS))


async def rename_user(session: WriteSession, user_id: UUID, name: str) -> bytes | None:
    return _changed(await session.write(RENAME, user_id=user_id, new_name=name))


async def rename_user_autocommit(session: WriteSession, user_id: UUID, name: str) -> bytes | None:
    return _changed(await session.autocommit(RENAME, user_id=user_id, new_name=name))


def _changed(rows: list[Row]) -> bytes | None:
    return json_bytes(rows[0]) if rows else None
