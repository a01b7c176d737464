"""The shape of a page, the same for every list."""

from typing import Generic, TypeVar

from pydantic import BaseModel

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """`next` and `prev` are what to send for the neighbouring pages; null where there is none."""

    items: list[Item]
    next: str | None = None
    prev: str | None = None
