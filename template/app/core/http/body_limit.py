"""Refuse bodies that are too large, before they cost work."""

from collections.abc import Mapping

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RequestLimits:
    """ASGI middleware: 413 and 415 when an endpoint reads the body.

    A body has at most `max_body_bytes`, and JSON at most `max_json_values`: a megabyte of wrong
    values would hold the event loop for a second.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_json_values: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_json_values = max_json_values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The first header of each name, which Starlette reads as well.
            headers = dict(reversed(scope["headers"]))
            # In HTTP/1 a request without either header has no body.
            is_announced = b"content-length" in headers or b"transfer-encoding" in headers
            if is_announced or not scope["http_version"].startswith("1"):
                codings = {v.lower() for k, v in scope["headers"] if k == b"content-encoding"}
                is_encoded = bool(codings - {b"identity"})
                receive = self._limited(headers, receive, is_encoded=is_encoded)
        await self.app(scope, receive, send)

    def _limited(
        self, headers: Mapping[bytes, bytes], receive: Receive, *, is_encoded: bool
    ) -> Receive:
        """Return a `receive` that raises HTTPException for a body that is too large or encoded."""
        is_json = b"json" in headers.get(b"content-type", b"").lower()
        length = headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() else 0
        pieces: list[bytes] = []
        size = 0

        async def limited() -> Message:
            nonlocal size
            if is_encoded:
                raise _refusal(415, "Content-Encoding is not supported: send the body without it.")
            # An announced size is refused before the client sends the body.
            message = {} if announced > self.max_body_bytes else await receive()
            body = message.get("body", b"")
            size += len(body)
            if max(size, announced) > self.max_body_bytes:
                raise _refusal(413, f"The body is over {self.max_body_bytes} bytes.")
            if is_json:
                pieces.append(body)
                if not message.get("more_body"):
                    if has_more_values(b"".join(pieces), self.max_json_values):
                        raise _refusal(413, f"The JSON has over {self.max_json_values} values.")
                    pieces.clear()
            return message

        return limited


def has_more_values(document: bytes, most: int) -> bool:
    """Return whether a JSON document has more than `most` values; containers count as none.

    Counts commas outside of strings: one stands before each value but the first of its container.
    """
    if document.count(b",") < most:
        return False
    # NUL means UTF-16 or UTF-32: quotes cannot be found as bytes.
    if b"\0" in document:
        return True
    outside = document.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    return sum(part.count(b",") for part in outside) >= most


def _refusal(status: int, detail: str) -> HTTPException:
    headers = {"Connection": "close"} | ({"Accept-Encoding": "identity"} if status == 415 else {})
    return HTTPException(status, detail, headers)
