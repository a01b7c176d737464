"""Finds the caller of a request by its credential, once for each request.

Access tokens and API keys are both sent as `Authorization: Bearer`, because caches and logs treat
this header as a secret.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from hashlib import sha256
from http import HTTPStatus
from logging import getLogger
from time import time

from starlette.exceptions import HTTPException
from starlette.types import Scope

from app.core.security import api_keys
from app.core.security.issuer import Issuer, Keys, fetch_keys
from app.core.security.principal import Principal
from app.core.security.tokens import InvalidToken, verify
from app.core.settings.auth import AuthSettings

# A longer credential is refused unread.
MAX_BYTES = 8192
# Verified credentials, each about 1 KB, which a worker remembers.
MAX_KNOWN = 2000

logger = getLogger(__name__)


class Authenticator:
    """Checks credentials, and remembers the digests of valid ones.

    A token is remembered until it expires, or the keys of the issuer are fetched again; an API key
    for `api_keys.KNOWN_S`, after which a revoked one is refused.
    """

    def __init__(self, settings: AuthSettings, issuer: Issuer) -> None:
        self._settings = settings
        self._issuer = issuer
        self._keys: Keys = {}
        self._known: dict[bytes, tuple[Principal, float]] = {}

    async def caller(self, credential: str) -> Principal:
        """Return the caller with this token or key.

        Raises:
            InvalidToken: when it is not valid.
            Unavailable: when the issuer or the database does not answer.
        """
        # The known tokens were verified with these keys.
        if (keys := self._issuer.keys()) is not self._keys:
            self._keys, self._known = keys, {}
        digest, now = sha256(credential.encode()).digest(), time()
        principal, until = self._known.get(digest, (None, 0.0))
        if principal is not None and now < until:
            return principal
        if credential.startswith(api_keys.PREFIX):
            principal, until = await api_keys.find(credential, now)
        else:
            claims = await verify(credential, self._settings, self._issuer, now=now)
            principal, until = claims.principal(), claims.exp
        if len(self._known) >= MAX_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[digest] = principal, until
        return principal


_open: list[Authenticator] = []


@asynccontextmanager
async def authenticating(settings: AuthSettings) -> AsyncIterator[None]:
    """Fetch the keys of the issuer, and check credentials for the block."""
    issuer = Issuer(partial(fetch_keys, settings))
    _open.append(Authenticator(settings, issuer))
    try:
        await issuer.refresh()
        yield
    finally:
        _open.pop()
        await issuer.close()


async def authenticate(scope: Scope) -> Principal:
    """Return the caller, and keep it in `scope["principal"]`.

    Raises:
        HTTPException: 401 without a valid credential (RFC 6750).
        Unavailable: when the issuer or the database does not answer.
    """
    sent = [value for name, value in scope["headers"] if name == b"authorization"]
    scheme, _, credential = sent[0].decode("latin-1").partition(" ") if sent else ("", "", "")
    if scheme.lower() != "bearer":
        raise _unauthorized("This needs a credential.", "Bearer")
    try:
        if len(sent) > 1 or len(credential) > MAX_BYTES:
            raise InvalidToken("it is too large, or one of several")
        principal = scope["principal"] = await _open[-1].caller(credential)
    except InvalidToken as error:
        # Only operators see the reason, because it would help a client that guesses.
        logger.debug("A credential is refused: %s", error)
        raise _unauthorized(
            "The credential is not valid.", 'Bearer error="invalid_token"'
        ) from None
    return principal


def _unauthorized(detail: str, challenge: str) -> HTTPException:
    return HTTPException(HTTPStatus.UNAUTHORIZED, detail, {"WWW-Authenticate": challenge})
