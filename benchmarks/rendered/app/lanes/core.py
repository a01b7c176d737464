"""Columns instead of entities, in statements that are built for each call; models made of rows."""

from uuid import UUID

from app.core.database import ReadSession, WriteSession
from app.posts.models import Post
from app.posts.schemas import Author, PostRead
from app.users.models import User
from sqlalchemy import select, update

from app.lanes.schemas import POSTS, POSTS_READ, USERS, Posts, UserRead

TABLE = User.metadata.tables["users"]
COLUMNS = (User.id, User.email, User.name, User.created_at)


async def read_user(session: ReadSession, user_id: UUID) -> UserRead | None:
    rows = await session.rows(select(*COLUMNS).where(User.id == user_id))
    return UserRead.model_validate(rows[0]) if rows else None


async def newest_posts(session: ReadSession) -> Posts:
    rows = await session.rows(
        select(
            Post.id,
            User.id.label("author_id"),
            User.name.label("author_name"),
            Post.title,
            Post.body,
            Post.created_at,
        )
        .join(Post.author)
        .order_by(Post.created_at.desc(), Post.id.desc())
        .limit(POSTS_READ)
    )
    return Posts(
        items=[
            PostRead(
                id=row.id,
                author=Author(id=row.author_id, name=row.author_name),
                title=row.title,
                body=row.body,
                created_at=row.created_at,
            )
            for row in rows[:POSTS]
        ]
    )


async def newest_users(session: ReadSession) -> list[UserRead]:
    newest_first = select(*COLUMNS).order_by(User.created_at.desc(), User.id.desc())
    return [UserRead.model_validate(row) for row in await session.rows(newest_first.limit(USERS))]


async def rename_user(session: WriteSession, user_id: UUID, name: str) -> UserRead | None:
    # Of the table and not of the model: the ORM would look for entities that have to follow.
    columns = [TABLE.c[column.key] for column in COLUMNS]
    change = update(TABLE).where(TABLE.c.id == user_id).values(name=name).returning(*columns)
    row = (await session.execute(change)).one_or_none()
    return UserRead.model_validate(row) if row else None
