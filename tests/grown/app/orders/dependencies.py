"""The settings, and the order that a path names, as dependencies."""

from typing import Annotated

from fastapi import Depends
from sqlalchemy import select

from app.core.database import ReadSessionDep
from app.core.http.problems import NotFound
from app.orders.models import Order
from app.settings import Settings, get_settings


async def current_settings() -> Settings:
    """Return the settings, which the process reads once. Without `async`, it needs a thread."""
    return get_settings()


async def order_of_path(order_id: int, session: ReadSessionDep) -> Order:
    """Return the order; FastAPI calls this once for each request."""
    order = await session.scalar(select(Order).where(Order.id == order_id))
    if order is None:
        raise NotFound(f"There is no order {order_id}.")
    return order


SettingsDep = Annotated[Settings, Depends(current_settings)]
OrderDep = Annotated[Order, Depends(order_of_path)]
