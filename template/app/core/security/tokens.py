"""Checks the signature, the claims and the form of access tokens (RFC 9068).

A token chooses neither the algorithm, which is a setting, nor the key, which is one of the issuer:
members of its header that name or carry another key (`jku`, `jwk`, `x5u`, `x5c`) are never read.
"""

import json
import re
from base64 import urlsafe_b64decode
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.core.security.issuer import Issuer
from app.core.security.principal import Principal
from app.core.settings.auth import AuthSettings

_FORM = re.compile(r"([\w-]+)\.([\w-]+)\.([\w-]+)", re.ASCII)
_TYPES = ("at+jwt", "application/at+jwt")


class InvalidToken(Exception):
    """The message has the reason, and no part of the token."""


class Claims(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    iss: str
    sub: str = Field(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")
    aud: str | list[str]
    exp: float
    iat: float
    nbf: float = 0.0
    # `scp` and `azp` are those of some issuers.
    scope: str | None = None
    scp: str | list[str] = ""
    client_id: str | None = None
    azp: str | None = None

    def principal(self) -> Principal:
        granted = self.scp if self.scope is None else self.scope
        scopes = granted.split() if isinstance(granted, str) else granted
        return Principal(self.sub, frozenset(scopes), self.client_id or self.azp)


async def verify(token: str, settings: AuthSettings, issuer: Issuer, *, now: float) -> Claims:
    """Return the claims of a token that is valid at `now`, in seconds since 1970.

    Raises:
        InvalidToken: with the reason.
        Unavailable: when there are no keys, because the issuer does not answer.
    """
    parts = _FORM.fullmatch(token)
    if parts is None:
        raise InvalidToken("it has not three parts in base64url")
    key_id = _key_id(_object(parts[1]), settings)
    key = await issuer.key(key_id)
    if key is None:
        raise InvalidToken("its `kid` is unknown")
    message = token[: parts.end(2)].encode()
    if not key.Algorithm.verify(message, key.key, _decoded(parts[3])):
        raise InvalidToken("its signature is wrong")
    try:
        claims = Claims.model_validate(_object(parts[2]))
    except ValidationError as error:
        names = {str(each["loc"][0]) for each in error.errors(include_input=False)}
        raise InvalidToken(f"missing or wrong: {', '.join(sorted(names))}") from None
    _check(claims, settings, now)
    return claims


def _key_id(header: dict[str, Any], settings: AuthSettings) -> str:
    if header.get("alg") != settings.auth_algorithm:
        raise InvalidToken("its `alg` is not AUTH_ALGORITHM")
    if "crit" in header or "b64" in header:
        raise InvalidToken("it needs an extension")
    kind = header.get("typ", "JWT")
    kind = kind.lower() if isinstance(kind, str) else ""
    if kind not in _TYPES and not (settings.auth_any_token_type and kind == "jwt"):
        raise InvalidToken("its `typ` is not `at+jwt`; see AUTH_ANY_TOKEN_TYPE")
    key_id = header.get("kid")
    if not isinstance(key_id, str):
        raise InvalidToken("it has no `kid`")
    return key_id


def _check(claims: Claims, settings: AuthSettings, now: float) -> None:
    leeway_s = settings.auth_leeway_s
    audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
    if claims.iss != settings.auth_issuer:
        raise InvalidToken("its `iss` is not AUTH_ISSUER")
    if settings.auth_audience not in audiences:
        raise InvalidToken("its `aud` has no AUTH_AUDIENCE")
    if claims.exp + leeway_s <= now:
        raise InvalidToken("it has expired")
    if max(claims.iat, claims.nbf) - leeway_s > now:
        raise InvalidToken("it is from the future")


def _decoded(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise InvalidToken("a part is not base64url") from None


def _object(part: str) -> dict[str, Any]:
    """Return a JSON object in UTF-8 whose names are unique."""
    try:
        found = json.loads(_decoded(part).decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidToken("a part is not JSON with unique names") from None
    if not isinstance(found, dict):
        raise InvalidToken("a part is no JSON object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError
    return found
