"""The JSON that clients send and receive."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12.

# One line without blanks at its ends: stripped, it would differ from the schema in OpenAPI.
Title = Annotated[
    str,
    StringConstraints(max_length=200, pattern=r"^[^\x00- ]([^\n]*[^\x00- ])?$"),
    Field(examples=["Notes on the Analytical Engine"]),
]
Body = Annotated[
    str,
    StringConstraints(min_length=1, max_length=10_000),
    Field(examples=["It weaves algebraic patterns."]),
]
Tag = Annotated[str, StringConstraints(to_lower=True, pattern=r"^[A-Za-z0-9-]{1,30}$")]


class PostCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    author_id: UUID
    title: Title
    body: Body
    tags: list[Tag] = Field(default=[], max_length=10, examples=[["computing", "history"]])


@with_config(ConfigDict(extra="forbid"))
class PostUpdate(TypedDict, total=False):
    """The fields to change; absent fields keep their values."""

    title: Title
    body: Body


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
