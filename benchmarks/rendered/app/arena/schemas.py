"""What clients send and receive."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Number = Annotated[int, Field(ge=0, lt=2**31)]


class Rating(BaseModel):
    score: int
    count: int


class ArenaItemRead(BaseModel):
    id: int
    name: str
    category: str
    price: int
    quantity: int
    active: bool
    tags: list[str]
    rating: Rating


class PricedItems(BaseModel):
    items: list[ArenaItemRead]
    count: int


class PriceRange(BaseModel):
    """A `limit` outside of 1 to 50 is moved to the nearer end: so the specification wants it."""

    model_config = ConfigDict(extra="forbid")

    min: Number = 10
    max: Number = 50
    limit: int = 50


class ItemTotal(ArenaItemRead):
    """`total` is the price of all pieces, times the multiplier of the request."""

    total: int


class Totals(BaseModel):
    items: list[ItemTotal]
    count: int
