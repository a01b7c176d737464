"""Settings of the client for other services."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

from app.core.settings.numbers import Positive, Seconds


def _network(text: str) -> str:
    return str(ip_network(text))


class HttpClientSettings(BaseSettings):
    http_connect_timeout_s: Seconds = Field(
        2.0, description="Longest time to find and reach another service, TLS included."
    )
    http_read_timeout_s: Seconds = Field(
        5.0, description="Longest time without a byte from another service."
    )
    http_total_timeout_s: Seconds = Field(
        10.0, description="Longest time of a call to another service, retries included."
    )
    http_retries: int = Field(
        2, ge=0, le=10, description="Most retries of an idempotent call, within its time limit."
    )
    http_max_in_flight: Positive = Field(
        50, description="Most calls in flight from one process to one host."
    )
    http_max_response_bytes: Positive = Field(
        1024**2, description="Largest response of another service, after decompression."
    )
    http_private_networks: tuple[Annotated[str, AfterValidator(_network)], ...] = Field(
        (), description="Networks that `public_http` may reach although they are not public."
    )
    http_offline: bool = Field(
        False, description="Refuse all calls to other services, as if they were unavailable."
    )
