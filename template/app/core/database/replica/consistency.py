"""What the reads of a request have to see: its own writes, and those that its client knows of.

The token of a write is where its commit ends in the primary's write-ahead log (its LSN). The
response carries it, the client sends it back, and a replica that has replayed the log up to there
shows the write. It is no secret and grants nothing: at worst it sends a read to the primary.
"""

import re
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import ParamSpec, TypeVar

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.problems import problem_response

P = ParamSpec("P")
T = TypeVar("T")

HEADER = "Commit-LSN"
_NAME = HEADER.lower().encode()
_LSN = re.compile(rb"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


@dataclass
class Consistency:
    """What one request, or one task outside of requests, has to see.

    `token` is the greatest LSN that the client sent, `commit` that of the last own commit, each 0
    when there is none. A commit whose LSN could not be read leaves `commit` as it was.
    """

    token: int = 0
    commit: int = 0
    has_written: bool = False


_current: ContextVar[Consistency | None] = ContextVar("consistency", default=None)
_fresh: ContextVar[bool] = ContextVar("fresh", default=False)


def current() -> Consistency:
    """That of this request. Tasks that it starts share it; so do the jobs that it enqueues here."""
    consistency = _current.get()
    if consistency is None:
        consistency = Consistency()
        _current.set(consistency)
    return consistency


def is_fresh() -> bool:
    """Whether this task reads on behalf of others: see `fresh`."""
    return _fresh.get()


def fresh(load: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """`load`, with the primary for all its reads: for what is kept and shown to others."""

    @wraps(load)
    async def loads(*args: P.args, **kwargs: P.kwargs) -> T:
        before = _fresh.set(True)
        try:
            return await load(*args, **kwargs)
        finally:
            _fresh.reset(before)

    return loads


class CommitTokens:
    """ASGI middleware: the client's token comes in, and that of the request's commit goes out."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            # A client that wrote in parallel may send several.
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
    """A position in the log, in bytes, from PostgreSQL's notation: two halves in hexadecimal.

    Raises:
        ValueError: when it is anything else.
    """
    halves = _LSN.fullmatch(text)
    if halves is None:
        raise ValueError("expected the value of an earlier response, such as 00000000/03000148")
    return int(halves[1], 16) << 32 | int(halves[2], 16)


def format_lsn(position: int) -> str:
    """In PostgreSQL's notation, padded: so the greater text is the later position."""
    return f"{position >> 32:08X}/{position & 0xFFFFFFFF:08X}"
