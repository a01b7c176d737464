"""Reads see the writes of their own request, and the earlier writes of their client.

The token of a write is its LSN: the end of its commit in the primary's write-ahead log. The
response carries the token and the client sends it back. A replica that has replayed the log up to
there shows the write. The token is no secret: at worst it sends a read to the primary.
"""

import re
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.problems import problem_response

HEADER = "Commit-LSN"
_NAME = HEADER.lower().encode()
_LSN = re.compile(rb"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass
class Consistency:
    """The writes that one request, or one task outside of requests, has to see.

    `token` is the greatest LSN that the client sent, and `commit` the LSN of the last own commit;
    0 means none. `commit` stays as it was if the LSN of a commit cannot be read.
    """

    token: int = 0
    commit: int = 0
    has_written: bool = False


_current: ContextVar[Consistency | None] = ContextVar("consistency", default=None)
_fresh: ContextVar[bool] = ContextVar("fresh", default=False)


def current() -> Consistency:
    """Return the consistency of this request; its tasks and its jobs in this process share it."""
    consistency = _current.get()
    if consistency is None:
        consistency = Consistency()
        _current.set(consistency)
    return consistency


def is_fresh() -> bool:
    """Whether this task loads a value that is shared: see `fresh`."""
    return _fresh.get()


def fresh() -> None:
    """Make this context read from the primary: for values that a cache keeps and shares."""
    _fresh.set(True)


class CommitTokens:
    """ASGI middleware that reads the client's token, and sends that of the request's commit."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            # A client that writes in parallel may send several.
            tokens = [parse_lsn(value) for name, value in scope["headers"] if name == _NAME]
        except ValueError as error:
            response = problem_response(HTTPStatus.BAD_REQUEST, f"{HEADER}: {error}.")
            await response(scope, receive, send)
            return
        consistency = Consistency(token=max(tokens, default=0))

        async def send_token(message: Message) -> None:
            if message["type"] == "http.response.start" and consistency.commit:
                MutableHeaders(scope=message).append(HEADER, format_lsn(consistency.commit))
            await send(message)

        before = _current.set(consistency)
        try:
            await self.app(scope, receive, send_token)
        finally:
            _current.reset(before)


def parse_lsn(text: bytes) -> int:
    """Return the position in the log, in bytes, of an LSN such as `00000000/03000148`.

    Raises:
        ValueError: when the text is no LSN.
    """
    halves = _LSN.fullmatch(text)
    if halves is None:
        raise ValueError("expected the value of an earlier response, such as 00000000/03000148")
    return int(halves[1], 16) << 32 | int(halves[2], 16)


def format_lsn(position: int) -> str:
    """In PostgreSQL's notation, padded: so the greater text is the later position."""
    return f"{position >> 32:08X}/{position & 0xFFFFFFFF:08X}"
