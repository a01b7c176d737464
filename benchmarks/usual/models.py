"""The tables, and what clients receive of them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, StringConstraints
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

    # An error instead of a query nobody asked for: SQLAlchemy docs, "Preventing Implicit IO when Using AsyncSession".
    author: Mapped[User] = relationship(lazy="raise")


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

    @property
    def rating(self) -> dict[str, int]:
        return {"score": self.rating_score, "count": self.rating_count}


class NameChange(BaseModel):
    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]


class Schema(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class UserRead(Schema):
    id: UUID
    email: str
    name: str
    created_at: datetime


class Author(Schema):
    id: UUID
    name: str


class PostRead(Schema):
    id: UUID
    author: Author
    title: str
    body: str
    created_at: datetime


class OwnPost(Schema):
    id: UUID
    title: str
    created_at: datetime


class Page(Schema):
    items: list[PostRead]
    next: str | None
    prev: None = None


class Summary(Schema):
    posts: int
    characters: int
    first_post_at: datetime | None
    last_post_at: datetime | None


class Dashboard(Schema):
    user: UserRead
    summary: Summary
    own_posts: list[OwnPost]
    latest_posts: list[PostRead]
    announcement: str


class Rating(Schema):
    score: int
    count: int


class ItemRead(Schema):
    id: int
    name: str
    category: str
    price: int
    quantity: int
    active: bool
    tags: list[str]
    rating: Rating


class PricedItems(Schema):
    items: list[ItemRead]
    count: int


class ItemTotal(ItemRead):
    total: int


class Totals(Schema):
    items: list[ItemTotal]
    count: int
