"""Tables of this domain."""

from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class ArenaItem(Base):
    __tablename__ = "arena_items"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    category: Mapped[str]
    price: Mapped[int]
    quantity: Mapped[int]
    active: Mapped[bool]
    tags: Mapped[list[str]] = mapped_column(JSONB)
    rating_score: Mapped[int]
    rating_count: Mapped[int]
