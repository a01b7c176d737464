"""Numbers as types of settings."""

from typing import Annotated

from pydantic import Field

Natural = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65535)]
# Longer ones are mistakes, and too large for timers.
Seconds = Annotated[float, Field(gt=0, le=24 * 3600)]
