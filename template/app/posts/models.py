"""The tables of posts and their tags."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Index, String, Text, func
from sqlalchemy.orm import Mapped, mapped_column, relationship

from app.core.database import Base
from app.users.models import User


class Post(Base):
    __tablename__ = "posts"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    author_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str] = mapped_column(String(200))
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )

    # A relationship that was not loaded raises, instead of sending a query for each post. Load one
    # object with `joinedload`, and a collection with `selectinload`: a JOIN repeats the post.
    author: Mapped[User] = relationship(lazy="raise_on_sql")
    tags: Mapped[list["PostTag"]] = relationship(lazy="raise_on_sql")


class PostTag(Base):
    __tablename__ = "post_tags"

    post_id: Mapped[UUID] = mapped_column(ForeignKey("posts.id"), primary_key=True)
    name: Mapped[str] = mapped_column(String(30), primary_key=True)


# One index for each order in which posts are listed; the second serves the foreign key as well.
Index("ix_posts_created_at_id", Post.created_at, Post.id)
Index("ix_posts_author_id_created_at_id", Post.author_id, Post.created_at, Post.id)
