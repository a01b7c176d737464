"""The secret that signs cursors."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr
from pydantic_settings import BaseSettings


def _is_long_enough(value: SecretStr) -> SecretStr:
    if len(value.get_secret_value().encode()) < 32:
        raise ValueError("expected at least 32 bytes, for example from `openssl rand -hex 32`")
    return value


class PaginationSettings(BaseSettings):
    cursor_secret: Annotated[SecretStr, AfterValidator(_is_long_enough)] = Field(
        description="Key that signs cursors, at least 32 bytes; the same on every instance. "
        "After a change, cursors that clients hold are refused (400)."
    )
