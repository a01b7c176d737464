"""What caches read and write in headers (RFC 9110, 9111, 9211): decisions without I/O.

Names are bytes in lower case, as ASGI wants them.
"""

from collections.abc import Collection, Iterable
from hashlib import blake2b
from http import HTTPStatus

from app.core.http_caching.policy import CREDENTIALS, Policy

Headers = list[tuple[bytes, bytes]]

CREDENTIAL_NAMES = frozenset(name.encode() for name in CREDENTIALS)
# RFC 9110, section 7.6.1, and those of older proxies.
HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
# They are about one request, or said anew for each.
PER_REQUEST = frozenset(
    (
        b"age",
        b"cache-status",
        b"commit-lsn",
        b"date",
        b"server-timing",
        b"traceparent",
        b"traceresponse",
        b"tracestate",
        b"x-request-id",
    )
)
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
_MISSING = (HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
_ENCODINGS = (b"br", b"gzip", b"zstd")


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
    if status in _MISSING:
        return policy.missing_control
    return b"no-store"


def directives(cache_control: bytes | None) -> dict[bytes, bytes]:
    """`Cache-Control` by name, in lower case; the first of each counts."""
    found: dict[bytes, bytes] = {}
    for item in items(cache_control):
        name, _, argument = item.partition(b"=")
        found.setdefault(name.strip(), argument.strip().strip(b'"'))
    return found


def is_shareable(status: int, headers: Headers, varies: Collection[bytes]) -> bool:
    """Whether a response may be shown to whoever sends the same request at the same time.

    Args:
        headers: as the endpoint made them.
        varies: names of the request headers that are part of the key, or are never sent with it.
    """
    if status == HTTPStatus.PARTIAL_CONTENT or status < HTTPStatus.OK:
        return False
    own = directives(get(headers, b"cache-control"))
    # Fields of `private="..."` are not told apart: the whole response is one client's.
    if own.keys() & {b"private", b"no-cache", b"no-store"}:
        return False
    if any(name == b"set-cookie" for name, _ in headers):
        return False
    return all(name in varies for name in items(get(headers, b"vary")))


def storage_s(policy: Policy, status: int, own_control: bytes | None) -> float:
    """How long a shareable response is kept; 0 when it is not.

    Args:
        own_control: what the endpoint itself said in `Cache-Control`.
    """
    if status == HTTPStatus.OK:
        ttl_s = policy.ttl_s
    elif status in _MISSING:
        ttl_s = policy.missing_s
    else:
        return 0
    own = directives(own_control)
    for name in (b"s-maxage", b"max-age"):
        if name in own:
            # Without a number it is not fresh at all (RFC 9111, section 4.2.1).
            return min(ttl_s, int(own[name])) if own[name].isdigit() else 0
    return ttl_s


def storable(headers: Headers) -> Headers:
    """The end-to-end headers that are the same for everybody (RFC 9111, section 3.1)."""
    named = items(get(headers, b"connection"))
    dropped = HOP_BY_HOP | PER_REQUEST | frozenset(named)
    return [(name, value) for name, value in headers if name not in dropped]


def normalised(name: bytes, value: bytes) -> bytes:
    """The value of a header of `vary`, with fewer forms for the same wish."""
    if name != b"accept-encoding":
        return b" ".join(value.split())
    wanted = []
    for item in items(value):
        coding, _, weight = item.partition(b";")
        zero = weight.replace(b" ", b"").rstrip(b"0.") == b"q="
        if coding.strip() in _ENCODINGS and not zero:
            wanted.append(coding.strip())
    return b", ".join(sorted(set(wanted)))
