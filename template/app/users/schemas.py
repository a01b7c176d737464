"""The JSON that clients send and receive."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, with_config
from typing_extensions import TypedDict  # Pydantic needs this one below Python 3.12.

# Finds typing errors; only a delivered message proves an address. The pattern allows ASCII only,
# so that lower case has the same length.
Email = Annotated[
    str,
    StringConstraints(to_lower=True, max_length=254, pattern=r"^[!-?A-~]+@[!-?A-~]+\.[!-?A-~]+$"),
    Field(examples=["ada@example.com"]),
]
# One line without blanks at its ends: stripped, it would differ from the schema in OpenAPI.
Name = Annotated[
    str,
    StringConstraints(max_length=100, pattern=r"^[^\x00- ]([^\n]*[^\x00- ])?$"),
    Field(examples=["Ada Lovelace"]),
]
Bio = Annotated[str, StringConstraints(max_length=500), Field(examples=["Wrote a program."])]


class UserCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    email: Email
    name: Name
    bio: Bio | None = None


@with_config(ConfigDict(extra="forbid"))
class UserUpdate(TypedDict, total=False):
    """The fields to change; absent fields keep their values."""

    email: Email
    name: Name
    bio: Bio | None


class UserRead(BaseModel):
    """For everybody."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    name: str
    bio: str | None
    created_at: datetime


class UserWithEmail(UserRead):
    """For the client that has registered the user: no other one sees the address."""

    email: str
