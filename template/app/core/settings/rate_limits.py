"""Settings of rate limits, and the form of a rate."""

import re
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 24 * 3600}
_RATE = re.compile(r"([1-9]\d{0,5})/(second|minute|hour|day)", re.ASCII)


def parse_rate(text: str) -> tuple[int, int]:
    """Return the requests and the seconds of `10/minute`; ValueError for any other form."""
    match = _RATE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is no rate: expected `10/minute`, or second, hour or day")
    return int(match[1]), _SECONDS[match[2]]


def _rate(value: str) -> str:
    if value:
        parse_rate(value)
    return value


class RateLimitsSettings(BaseSettings):
    rate_limit: Annotated[str, AfterValidator(_rate)] = Field(
        "",
        description="Requests of one caller to all routes that declare no limit: `600/minute`; "
        "empty for none.",
    )
    rate_limit_failures: Annotated[str, AfterValidator(_rate)] = Field(
        "30/minute", description="Answers 401 to one address; further ones are 429."
    )
