"""What clients send and receive."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from app.core.http.changes import Changes

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Body = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]
Tag = Annotated[
    str, StringConstraints(strip_whitespace=True, to_lower=True, pattern=r"^[A-Za-z0-9-]{1,30}$")
]
Tags = Annotated[list[Tag], Field(max_length=10)]


class PostCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    author_id: UUID
    title: Title = Field(examples=["Notes on the Analytical Engine"])
    body: Body = Field(examples=["It weaves algebraic patterns."])
    tags: Tags = Field(default=[], examples=[["computing", "history"]])


class PostUpdate(Changes):
    title: Title = Field(default="", examples=["Notes, revised"])
    body: Body = Field(default="", examples=["It still weaves algebraic patterns."])


class Author(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str


class PostRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: UUID
    author: Author
    title: str
    body: str
    created_at: datetime


class PostDetail(PostRead):
    tags: list[str]

    @field_validator("tags", mode="before")
    @classmethod
    def names(cls, tags: list[Any]) -> list[str]:
        """The names of tags that come as entities."""
        return [getattr(tag, "name", tag) for tag in tags]
