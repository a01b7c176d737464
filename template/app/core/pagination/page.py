"""The shape of a page, the same for every list."""

from collections.abc import Callable
from typing import Generic, TypeVar

from pydantic import BaseModel

DEFAULT_LIMIT = 20
MAX_LIMIT = 100

T = TypeVar("T")
Other = TypeVar("Other")


class Page(BaseModel, Generic[T]):
    """`next` and `prev` lead to the neighbouring pages; null where there is none."""

    items: list[T]
    next: str | None = None
    prev: str | None = None

    def map(self, convert: Callable[[T], Other]) -> "Page[Other]":
        """The same page with every item converted."""
        # Items were validated when they were made: validating them once more doubles the cost of a list.
        return Page.model_construct(
            items=[convert(item) for item in self.items], next=self.next, prev=self.prev
        )
