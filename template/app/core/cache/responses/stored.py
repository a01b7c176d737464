"""Stored responses: how a response becomes an entry of the cache, and is sent from it."""

from http import HTTPStatus
from math import floor
from time import time
from typing import NamedTuple

import orjson
from starlette.types import Scope, Send

from app.core.cache import headers as h
from app.core.cache.conditional import declared
from app.core.cache.keys import ResponseKey
from app.core.cache.policy import Policy
from app.core.cache.responses.recorder import Recorded
from app.core.cache.responses.rules import storable, ttl_of
from app.core.cache.store import Loaded, Outcome
from app.core.cache.store.entry import Entry
from app.core.http.problems import Unavailable


class Stored(NamedTuple):
    """A stored response without its body, ready to be sent."""

    status: int
    headers: h.Headers
    headers_304: h.Headers
    etag: bytes | None


class FailedResponse(Unavailable):
    """The response is a 5xx: a stale one is sent instead, if the policy allows one."""

    def __init__(self, entry: Entry) -> None:
        super().__init__("The response could not be loaded.")
        self.entry = entry


def parse(entry: Entry) -> Stored | None:
    """Decode `entry.meta`, and remember it with the entry; None when it cannot be decoded."""
    try:
        status, pairs = orjson.loads(entry.meta)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs]
        stored = Stored(int(status), headers, h.of_304(headers), h.get(headers, b"etag"))
    except (ValueError, TypeError, AttributeError):
        return None
    entry.parsed = stored
    return stored


def complete(recorded: Recorded, key: ResponseKey) -> Recorded:
    """Add the headers of the policy, the tags for CDNs and the `ETag`."""
    headers = declared(key.route.declaration, recorded.status, recorded.headers)
    headers = [*headers, *tag_headers(key, headers)]
    if recorded.status == HTTPStatus.OK and h.get(headers, b"etag") is None:
        headers.append((b"etag", h.etag_of(recorded.body)))
    return recorded._replace(headers=headers)


def loaded(recorded: Recorded, policy: Policy, own_control: bytes | None) -> Loaded:
    """Make the entry of a response; FailedResponse for a 5xx; `own_control` as in `ttl_of`."""
    pairs = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in storable(recorded.headers)]
    is_found = recorded.status == HTTPStatus.OK
    entry = Entry(
        recorded.body,
        meta=orjson.dumps([recorded.status, pairs]),
        ttl_s=ttl_of(policy, recorded.status, own_control),
        stale_while_revalidate_s=policy.stale_while_revalidate_s if is_found else 0,
        stale_if_error_s=policy.stale_if_error_s if is_found else 0,
    )
    if recorded.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise FailedResponse(entry)
    return Loaded(entry, keep=entry.ttl_s > 0)


def tag_headers(key: ResponseKey, headers: h.Headers) -> h.Headers:
    """Return the tags in the headers by which CDNs invalidate."""
    if not (key.tags and key.route.policy.s_maxage_s) or h.get(headers, b"set-cookie") is not None:
        return []
    return [
        (b"surrogate-key", " ".join(key.tags).encode()),
        (b"cache-tag", ",".join(key.tags).encode()),
    ]


async def send_stored(
    entry: Entry, outcome: Outcome, scope: Scope, sent: dict[bytes, bytes], send: Send
) -> None:
    """Send the response of a parsed entry; a 304 when the client has it."""
    stored: Stored = entry.parsed
    age_s = entry.age_s(time())
    left_s = floor(entry.ttl_s - age_s)
    if outcome is Outcome.MISS or outcome is Outcome.COLLAPSED:
        extra = [(b"cache-status", b"app; fwd=miss; collapsed")]
    else:
        how = b"fwd=stale" if outcome is Outcome.ERROR else b"hit"
        extra = [(b"age", b"%d" % age_s), (b"cache-status", b"app; %b; ttl=%d" % (how, left_s))]
    status, headers, body = stored.status, stored.headers, entry.body
    if (
        stored.etag is not None
        and status == HTTPStatus.OK
        and (if_none_match := sent.get(b"if-none-match")) is not None
        and h.matches(if_none_match, stored.etag)
    ):
        status, headers, body = 304, stored.headers_304, b""
    elif scope["method"] == "HEAD":
        body = b""
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *extra]})
    await send({"type": "http.response.body", "body": body})
