"""What clients send and receive."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app.core.changes import Changes

Title = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Body = Annotated[str, StringConstraints(min_length=1, max_length=10_000)]


class PostCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    author_id: UUID
    title: Title = Field(examples=["Notes on the Analytical Engine"])
    body: Body = Field(examples=["It weaves algebraic patterns."])


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
