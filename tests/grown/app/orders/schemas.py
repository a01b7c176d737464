"""The bodies of requests and responses."""

from pydantic import BaseModel, ConfigDict, Field


class OrderCreate(BaseModel):
    item: str = Field(min_length=1, max_length=40)


class OrderRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    item: str
