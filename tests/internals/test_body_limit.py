"""Bodies that are too large are refused in every way in which they can arrive."""

from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.core.http.body_limit import BodyLimit

LIMIT = 10


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await Response(str(len(body)))(scope, receive, send)


async def answer(size: int, headers: dict[bytes, bytes], version: str) -> tuple[int, bytes]:
    """The status and the body with which a request of two pieces is answered."""
    pieces = [b"x" * (size // 2), b"x" * (size - size // 2)]
    sent: list[Message] = []

    async def receive() -> Message:
        piece = pieces.pop(0) if pieces else b""
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "http_version": version,
        "headers": list(headers.items()),
    }
    await BodyLimit(read_all, max_body_bytes=LIMIT)(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


@pytest.mark.parametrize(
    ("headers", "version"),
    [
        ({b"content-length": b"%d"}, "1.1"),
        ({b"transfer-encoding": b"chunked"}, "1.1"),
        ({b"content-length": b"%d"}, "2"),
        ({}, "2"),
    ],
)
async def test_the_limit_holds(headers: dict[bytes, bytes], version: str) -> None:
    for size in (0, LIMIT, LIMIT + 1):
        sized = {name: value.replace(b"%d", b"%d" % size) for name, value in headers.items()}
        status, body = await answer(size, sized, version)
        assert status == (413 if size > LIMIT else 200)
        assert status == 413 or body == b"%d" % size
