"""The tables of orders; their names are words of SQL."""

from datetime import datetime

from sqlalchemy import DateTime, ForeignKey, Identity, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from app.core.database import Base


class Group(Base):
    __tablename__ = "group"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(String(40), unique=True)


class Order(Base):
    __tablename__ = "order"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    group_id: Mapped[int | None] = mapped_column(ForeignKey(Group.id))
    item: Mapped[str] = mapped_column(String(40))
    receipt_at: Mapped[datetime | None] = mapped_column(DateTime(timezone=True))


Index("ix_order_group_id", Order.group_id)
