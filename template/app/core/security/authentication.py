"""Finds the caller of a request by its credential, once for each request."""

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.core.security.principal import Principal


async def authenticate(scope: Scope) -> Principal:
    """Return the caller, and keep it in `scope["principal"]`.

    Raises:
        HTTPException: 401 without a valid credential (RFC 6750).
        Unavailable: when the keys of the issuer are not there yet.
    """
    raise HTTPException(
        HTTPStatus.UNAUTHORIZED, "This needs a credential.", {"WWW-Authenticate": "Bearer"}
    )
