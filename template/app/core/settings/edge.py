"""Settings of the edge: hosts, the prefix of a proxy, CORS, security headers and documentation."""

import re
from contextlib import suppress
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

_HOST = re.compile(
    r"(?!.{260})(\[[0-9a-f:.]+\]|[\w-]+(?:\.[\w-]+)*\.?)(?::(?:[1-9]\d{0,4})?)?", re.ASCII
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


# A service has few hosts, and a lookup is ten times as fast.
@lru_cache(maxsize=64)
def parse_host(value: bytes) -> tuple[str, bytes] | None:
    """Return the name or address in a `Host` header, and the header, both in one form.

    The form is in lower case, without blanks around it, a last dot or an empty port. None when the
    header is malformed.
    """
    text = value.decode("latin-1").strip(" \t").lower()
    match = _HOST.fullmatch(text)
    with suppress(ValueError):
        port = urlsplit(f"//{text}").port
        if match is not None:
            name = match[1].removesuffix(".")
            return name, (f"{name}:{port}" if port else name).encode()
    return None


def host_name(value: bytes) -> str | None:
    """Return the name or address in a `Host` header, in lower case; None when it is malformed."""
    host = parse_host(value)
    return host and host[0]


def _host(value: str) -> str:
    name = value.lower().removesuffix(".")
    if host_name(name.removeprefix("*.").encode()) != name.removeprefix("*."):
        raise ValueError("expected `api.example.org` or `*.example.org`, without scheme and port")
    return name


def _origin(value: str) -> str:
    scheme, _, authority = value.partition("://")
    is_default = authority.endswith((":", _DEFAULT_PORTS.get(scheme, "://")))
    if value != "*" and (is_default or not value.islower() or not host_name(authority.encode())):
        raise ValueError("expected `https://app.example.org`, as browsers send it, or `*`")
    return value


def _prefix(value: str) -> str:
    if not re.fullmatch(r"(/[\w~-][\w.~-]*)*", value, re.ASCII):
        raise ValueError("expected `/shop`, without a slash at the end")
    return value


class EdgeSettings(BaseSettings):
    allowed_hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(
        (), description="Hosts of the service: `api.example.org,*.example.net`; empty for all."
    )
    root_path: Annotated[str, AfterValidator(_prefix)] = Field(
        "", description="Prefix that the proxy removes from each path: `/shop`."
    )
    cors_origins: tuple[Annotated[str, AfterValidator(_origin)], ...] = Field(
        (), description="Sites whose scripts may read responses: `https://app.example.org`, or `*`."
    )
    cors_credentials: bool = Field(
        False, description="Whether these scripts may send the cookies of the browser."
    )
    hsts_max_age_s: int = Field(
        0,
        ge=0,
        le=10**8,
        description="Seconds of Strict-Transport-Security; 0 sends none.",
    )
    docs: bool = Field(
        False, description="Whether `/docs`, `/redoc` and `/openapi.json` are served."
    )

    @field_validator("cors_credentials")
    @classmethod
    def _named(cls, value: bool, info: ValidationInfo) -> bool:
        if value and "*" in info.data.get("cors_origins", ()):
            raise ValueError("needs CORS_ORIGINS that name each origin, without `*`")
        return value
