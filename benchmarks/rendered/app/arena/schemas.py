"""What clients send and receive."""

from pydantic import BaseModel, ConfigDict

from app.items.schemas import ItemRead, Number


class PricedItems(BaseModel):
    items: list[ItemRead]
    count: int


class PriceRange(BaseModel):
    """A `limit` outside of 1 to 50 is moved to the nearer end: so the specification wants it."""

    model_config = ConfigDict(extra="forbid")

    min: Number = 10
    max: Number = 50
    limit: int = 50


class ItemTotal(ItemRead):
    """`total` is the price of all pieces, times the multiplier of the request."""

    total: int


class Totals(BaseModel):
    items: list[ItemTotal]
    count: int
