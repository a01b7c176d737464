"""What caches read and write in headers (RFC 9110, 9111): decisions without I/O.

Names are bytes in lower case, as ASGI wants them.
"""

from collections.abc import Iterable
from hashlib import blake2b
from http import HTTPStatus

from app.core.http_caching.policy import CREDENTIALS, Policy

Headers = list[tuple[bytes, bytes]]

CREDENTIAL_NAMES = frozenset(name.encode() for name in CREDENTIALS)
# Of a representation that a 304 does not carry (RFC 9110, section 15.4.5).
_NOT_IN_304 = frozenset(
    (
        b"content-encoding",
        b"content-language",
        b"content-length",
        b"content-range",
        b"content-type",
        b"last-modified",
        b"transfer-encoding",
    )
)
_DECLARED = (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.NOT_MODIFIED)
MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The values of a header as one list, or None."""
    values = [value for other, value in headers if other == name]
    return b", ".join(values) if values else None


def items(value: bytes | None) -> list[bytes]:
    """The members of a list, in lower case."""
    return [item for part in (value or b"").lower().split(b",") if (item := part.strip())]


def etag_of(body: bytes) -> bytes:
    """A strong validator: equal bytes have equal ones, in every worker and release."""
    return b'"%s"' % blake2b(body, digest_size=16).hexdigest().encode()


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Whether the client holds this version: the weak comparison of RFC 9110, section 13.1.2."""
    if if_none_match.strip() == b"*":
        return True
    wanted = etag.removeprefix(b"W/")
    if if_none_match == wanted:
        return True
    # A comma may stand in a tag: what is between quotes decides.
    return wanted[1:-1] in if_none_match.split(b'"')[1::2]


def of_304(headers: Headers) -> Headers:
    """The headers of the 304 in place of a response with `headers`."""
    return [(name, value) for name, value in headers if name not in _NOT_IN_304]


def control_for(policy: Policy, status: int) -> bytes:
    """What a response of this status says in `Cache-Control` when its endpoint says nothing."""
    if status in _DECLARED:
        return policy.cache_control
    if not policy.conditional:
        return policy.cache_control
    if status in MISSING:
        return policy.missing_control
    return b"no-store"
