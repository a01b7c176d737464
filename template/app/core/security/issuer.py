"""The public keys of the issuer: found by discovery, kept, and fetched again in time.

One fetch runs at a time, and the next one begins `RETRY_S` later at the earliest, however many
unknown keys the tokens name.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from logging import getLogger
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from app.core.http.problems import Unavailable
from app.core.settings.auth import AuthSettings, is_trustworthy

if TYPE_CHECKING:
    from jwt import PyJWK

Keys = Mapping[str, "PyJWK"]

# A key that the issuer has withdrawn is accepted for the first time, and for the second one while
# the issuer does not answer.
REFRESH_S = 300.0
STALE_S = 24 * 3600.0
RETRY_S = 10.0
# The longest wait of a token for a fetch.
WAIT_S = 5.0

_SOCKET_TIMEOUT_S = 3.0
_MAX_BYTES = 2**18
# OpenID Connect Discovery, and RFC 8414, whose URL ends in the path of the issuer.
_DISCOVERY = (
    "{0}{1}/.well-known/openid-configuration",
    "{0}/.well-known/oauth-authorization-server{1}",
)
_PUBLIC_MEMBERS = ("kty", "crv", "n", "e", "x", "y")

logger = getLogger(__name__)


class Issuer:
    """The keys of one issuer; `fetch` returns them, and may block."""

    def __init__(self, fetch: Callable[[], Keys]) -> None:
        self._fetch = fetch
        self._keys: Keys = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._flight: asyncio.Task[None] | None = None
        self._has_failed = True

    def keys(self) -> Keys:
        """Return the present keys, and fetch them again in the background if they are old."""
        age_s = monotonic() - self._fetched_at
        if age_s > REFRESH_S:
            self._start()
        if age_s > STALE_S:
            self._keys = {}
        return self._keys

    async def key(self, id: str) -> "PyJWK | None":
        """Return the key, after a fetch if it is unknown; None if the issuer has no such key.

        Raises:
            Unavailable: when the issuer does not answer.
        """
        key = self.keys().get(id)
        if key is None:
            await self.refresh()
            key = self._keys.get(id)
            if key is None and self._has_failed:
                raise Unavailable("The issuer of access tokens is unavailable.")
        return key

    async def refresh(self) -> None:
        """Wait for the fetch that runs, or for a new one if the last is long enough ago."""
        if flight := self._start():
            await asyncio.wait([flight], timeout=WAIT_S)

    async def close(self) -> None:
        if self._flight:
            self._flight.cancel()
            await asyncio.wait([self._flight])

    def _start(self) -> asyncio.Task[None] | None:
        now = monotonic()
        if self._flight is None and now - self._tried_at >= RETRY_S:
            self._tried_at = now
            self._flight = asyncio.create_task(self._fly())
        return self._flight

    async def _fly(self) -> None:
        try:
            # The thread ends with the time limits of its sockets, and until then no other begins.
            self._keys = await asyncio.to_thread(self._fetch)
            self._fetched_at = monotonic()
            self._has_failed = False
        except Exception as error:
            self._has_failed = True
            logger.warning("AUTH_ISSUER: no keys: %s", error)
        finally:
            self._flight = None


def fetch_keys(settings: AuthSettings) -> Keys:
    """Return the keys for signatures by `AUTH_ALGORITHM`, by their `kid`; blocks.

    Raises:
        OSError, HTTPException, ValueError: when the issuer does not answer, or not correctly.
    """
    from jwt import PyJWK, PyJWTError

    algorithm = settings.auth_algorithm
    metadata = _metadata(settings.auth_issuer)
    keys = {}
    for each in _get(metadata["jwks_uri"])["keys"]:
        if each.get("use", "sig") != "sig" or each.get("alg", algorithm) != algorithm:
            continue
        try:
            public = {name: each[name] for name in _PUBLIC_MEMBERS if name in each}
            key = PyJWK(public, algorithm)
            key.Algorithm.prepare_key(key.key)
            is_short = key.Algorithm.check_key_length(key.key)
        except (PyJWTError, ValueError, TypeError):
            # Of another type or curve.
            continue
        if not is_short and isinstance(each.get("kid"), str):
            keys[each["kid"]] = key
    if not keys:
        raise ValueError(f"no key with a `kid` for AUTH_ALGORITHM {algorithm}")
    return keys


def _metadata(issuer: str) -> dict[str, Any]:
    parts = urlsplit(issuer)
    origin, path = f"{parts.scheme}://{parts.netloc}", parts.path.rstrip("/")
    for place in _DISCOVERY:
        try:
            metadata = _get(place.format(origin, path))
        except FileNotFoundError:
            continue
        if metadata["issuer"] != issuer:
            raise ValueError("the issuer calls itself by another name")
        return metadata
    raise ValueError("no metadata below /.well-known/")


def _get(url: str) -> dict[str, Any]:
    """Return a JSON object, without following redirects.

    Raises:
        FileNotFoundError: when the answer is 404.
        OSError, HTTPException, ValueError: when there is no such object.
    """
    if not is_trustworthy(url):
        raise ValueError("a URL is not https")
    parts = urlsplit(url)
    connect = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = connect(parts.hostname or "", parts.port, timeout=_SOCKET_TIMEOUT_S)
    target = f"{parts.path or '/'}?{parts.query}".removesuffix("?")
    try:
        connection.request("GET", target, headers={"Accept": "application/json"})
        response = connection.getresponse()
        body, deadline = b"", monotonic() + _SOCKET_TIMEOUT_S
        while part := response.read1():
            body += part
            if len(body) > _MAX_BYTES or monotonic() > deadline:
                raise ValueError(f"{parts.path} is too large, or too slow")
    finally:
        connection.close()
    if response.status == HTTPStatus.NOT_FOUND:
        raise FileNotFoundError(f"{parts.path} is 404")
    if response.status != HTTPStatus.OK:
        raise HTTPException(f"{parts.path} is {response.status}")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError(f"{parts.path} is no object")
    return found
