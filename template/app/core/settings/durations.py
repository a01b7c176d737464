"""A duration as a settings type: longer ones are mistakes, and too large for the timers below."""

from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(gt=0, le=24 * 3600)]
