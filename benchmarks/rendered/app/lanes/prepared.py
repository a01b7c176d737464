"""Statements that are compiled once, and JSON made of their rows without models."""

from uuid import UUID

from app.core.database import PreparedRead, PreparedWrite, ReadSession, Row, WriteSession
from app.core.http.serialization import to_json
from app.posts.models import Post
from app.users.models import User
from sqlalchemy import String, bindparam, select, update

from app.lanes.schemas import POSTS, POSTS_READ, USERS

COLUMNS = (User.id, User.email, User.name, User.created_at)
USER = PreparedRead(select(*COLUMNS).where(User.id == bindparam("user_id")))
NEWEST_USERS = PreparedRead(
    select(*COLUMNS).order_by(User.created_at.desc(), User.id.desc()).limit(USERS)
)
NEWEST_POSTS = PreparedRead(
    select(
        Post.id,
        User.id.label("author.id"),
        User.name.label("author.name"),
        Post.title,
        Post.body,
        Post.created_at,
    )
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
    return to_json(user) if user else None


async def newest_posts(session: ReadSession) -> bytes:
    return to_json({"items": (await session.fetch(NEWEST_POSTS))[:POSTS]})


async def newest_users(session: ReadSession) -> bytes:
    return to_json(await session.fetch(NEWEST_USERS))


async def rename_user(session: WriteSession, user_id: UUID, name: str) -> bytes | None:
    return _changed(await session.write(RENAME, user_id=user_id, new_name=name))


async def rename_user_autocommit(session: WriteSession, user_id: UUID, name: str) -> bytes | None:
    return _changed(await session.autocommit(RENAME, user_id=user_id, new_name=name))


def _changed(rows: list[Row]) -> bytes | None:
    return to_json(rows[0]) if rows else None
