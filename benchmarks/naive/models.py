"""The tables, as SQLAlchemy's tutorials map them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    email: Mapped[str]
    name: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))


class Post(Base):
    __tablename__ = "posts"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    author_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    title: Mapped[str]
    body: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))

    # Lazy, SQLAlchemy's default. SQLAlchemy docs, "Relationship Loading Techniques", warn of "the N plus one problem".
    author: Mapped[User] = relationship()


class Item(Base):
    __tablename__ = "arena_items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    category: Mapped[str]
    price: Mapped[int]
    quantity: Mapped[int]
    active: Mapped[bool]
    tags: Mapped[list[str]] = mapped_column(JSONB)
    rating_score: Mapped[int]
    rating_count: Mapped[int]
