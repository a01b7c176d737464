"""A table that only the tests of core have: they run the same whether or not there are domains."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from uuid import UUID

from sqlalchemy import DateTime, ForeignKey, Index, MetaData, String, func
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from app.core.database import database


class Base(DeclarativeBase):
    # Not the application's metadata, so that no migration ever sees it.
    metadata = MetaData()


class Shelf(Base):
    __tablename__ = "test_shelves"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    name: Mapped[str] = mapped_column(String(50), unique=True)


class Book(Base):
    __tablename__ = "test_books"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    title: Mapped[str] = mapped_column(String(50))
    added_at: Mapped[datetime] = mapped_column(
        DateTime(timezone=True), server_default=func.clock_timestamp()
    )
    rating: Mapped[int | None]
    # Deferred: it is the COMMIT that fails.
    shelf_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("test_shelves.id", deferrable=True, initially="DEFERRED")
    )

    shelf: Mapped[Shelf | None] = relationship(lazy="raise_on_sql")


Index("ix_test_books_added_at_id", Book.added_at, Book.id)
Index("ix_test_books_rating_title_id", Book.rating.desc().nulls_last(), Book.title, Book.id)
Index("ix_test_books_title_rating_id", Book.title, Book.rating.desc().nulls_last(), Book.id)


@asynccontextmanager
async def tables() -> AsyncIterator[None]:
    """The tables, while the block runs."""
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    yield
    async with database.engine.begin() as connection:
        await connection.run_sync(Base.metadata.drop_all)
