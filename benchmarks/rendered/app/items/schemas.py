"""What clients send and receive."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class Rating(BaseModel):
    score: int
    count: int


class ItemRead(BaseModel):
    id: int
    name: str
    category: str
    price: int
    quantity: int
    active: bool
    tags: list[str]
    rating: Rating


class ItemPage(BaseModel):
    """`total` is the number of items on this page."""

    items: list[ItemRead]
    total: int
    page: int
    limit: int


class ItemPageParams(BaseModel):
    model_config = ConfigDict(extra="forbid")

    category: str = Field("electronics", max_length=100)
    page: int = Field(1, ge=1, le=1_000)
    limit: int = Field(10, ge=1, le=50)


class ItemUpdate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name
    price: Number
    quantity: Number


class ItemCreate(ItemUpdate):
    id: Number
    category: Name


class ItemUpdated(ItemUpdate):
    id: int


class ItemCreated(ItemCreate):
    pass
