"""HTTP headers that concern caches (RFC 9110, 9111): decisions without I/O.

Names are lower-case bytes, as ASGI requires.
"""

from collections.abc import Iterable
from hashlib import sha256

Headers = list[tuple[bytes, bytes]]

# Headers of a representation, which a 304 does not repeat (RFC 9110, section 15.4.5).
_NOT_IN_304 = frozenset(
    b"content-encoding content-language content-length content-range content-type last-modified "
    b"transfer-encoding".split()
)


def get(headers: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Return all values of a header, joined by commas, or None."""
    found = None
    for other, value in headers:
        if other == name:
            found = value if found is None else b"%b, %b" % (found, value)
    return found


def items(value: bytes | None) -> list[bytes]:
    """Return the members of a comma-separated header, in lower case."""
    return [item for part in (value or b"").lower().split(b",") if (item := part.strip())]


def etag_of(body: bytes) -> bytes:
    """Return a strong validator: equal bodies have equal tags, in every worker and release."""
    # Processors have instructions for SHA-256: it takes half of the time of BLAKE2 on large bodies.
    return b'"%s"' % sha256(body).hexdigest()[:32].encode()


def matches(if_none_match: bytes, etag: bytes) -> bool:
    """Return whether `If-None-Match` names the tag (weak comparison, RFC 9110, section 13.1.2)."""
    if if_none_match.strip() == b"*":
        return True
    wanted = etag.removeprefix(b"W/")
    if if_none_match == wanted:
        return True
    # A tag may contain a comma: compare the texts between quotes.
    return wanted[1:-1] in if_none_match.split(b'"')[1::2]


def of_304(headers: Headers) -> Headers:
    """Return the headers of the 304 that replaces a response with `headers`."""
    return [(name, value) for name, value in headers if name not in _NOT_IN_304]
