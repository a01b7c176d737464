"""Settings of the issuer whose access tokens the service accepts."""

from contextlib import suppress
from ipaddress import ip_address
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings


def is_trustworthy(url: str) -> bool:
    """Return whether the URL is https without a password, or http on this machine."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if not host or not url.isascii() or not url.isprintable() or any(map(url.count, " @#\\")):
        return False
    if host == "localhost":
        return parts.scheme in ("http", "https")
    with suppress(ValueError):
        if ip_address(host).is_loopback:
            return parts.scheme in ("http", "https")
    return parts.scheme == "https"


def _issuer(value: str) -> str:
    if not is_trustworthy(value) or "?" in value:
        raise ValueError(
            "expected `https://login.example.org/realm`, as the issuer writes it in `iss`; "
            "http is for this machine only"
        )
    return value


class AuthSettings(BaseSettings):
    auth_issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        description="Issuer of the access tokens: the URL in their `iss`, to the letter."
    )
    auth_audience: str = Field(
        pattern=r"^\S+$", description="Name of this service in the `aud` of access tokens."
    )
    auth_algorithm: Literal[
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"
    ] = Field("RS256", description="Algorithm of all signatures of the issuer.")
    auth_any_token_type: bool = Field(
        False,
        description="Whether tokens need no `typ` of `at+jwt`, for issuers that do not send it.",
    )
    auth_leeway_s: float = Field(
        10.0, ge=0, le=30, description="Most seconds that the clocks of issuer and service differ."
    )
