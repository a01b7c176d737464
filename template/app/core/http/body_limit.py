"""Refuse requests before they cost work: a malformed `Host`, and bodies that are too large."""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.http.hosts import is_host
from app.core.http.problems import problem_response


class RequestLimits:
    """ASGI middleware: 400 for a malformed `Host`; 413 and 415 when a body is read.

    A body has at most `max_body_bytes`, and in JSON at most `max_json_values`: a megabyte of wrong
    values would hold the event loop for a second.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_json_values: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_json_values = max_json_values

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            # The first one of each name, which Starlette reads.
            headers = dict(reversed(scope["headers"]))
            host = headers.get(b"host")
            if host is not None and not is_host(host.decode("latin-1")):
                response = problem_response(HTTPStatus.BAD_REQUEST, "The header Host is malformed.")
                await response(scope, receive, send)
                return
            # In HTTP/1 a request without either header has no body.
            is_announced = b"content-length" in headers or b"transfer-encoding" in headers
            if is_announced or not scope["http_version"].startswith("1"):
                receive = self._limited(headers, receive)
        await self.app(scope, receive, send)

    def _limited(self, headers: Mapping[bytes, bytes], receive: Receive) -> Receive:
        """Return a `receive` that raises HTTPException for a body that no endpoint may get."""
        too_large = f"The request body is larger than {self.max_body_bytes} bytes."
        length = headers.get(b"content-length", b"")
        refusal: HTTPException | None = None
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            refusal = HTTPException(
                HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
                "Content-Encoding is not supported: send the body without it.",
                headers={"Accept-Encoding": "identity", "Connection": "close"},
            )
        elif length.isdigit() and int(length) > self.max_body_bytes:
            refusal = _too_large(too_large)
        is_json = b"json" in headers.get(b"content-type", b"").lower()
        pieces: list[bytes] = []
        size = 0

        async def limited() -> Message:
            nonlocal size
            if refusal is not None:
                raise refusal
            message = await receive()
            body = message.get("body", b"")
            size += len(body)
            if size > self.max_body_bytes:
                raise _too_large(too_large)
            if is_json:
                pieces.append(body)
                if not message.get("more_body"):
                    if has_more_values(b"".join(pieces), self.max_json_values):
                        raise _too_large(f"The JSON has more than {self.max_json_values} values.")
                    pieces.clear()
            return message

        return limited


def has_more_values(document: bytes, most: int) -> bool:
    """Return whether a JSON document has more than `most` values besides its nesting.

    Counts commas outside of strings: one stands before each value but the first of its container.
    """
    if document.count(b",") < most:
        return False
    # With NUL it is not UTF-8, and quotes cannot be found as bytes.
    if b"\0" in document:
        return True
    outside = document.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    return sum(part.count(b",") for part in outside) >= most


def _too_large(detail: str) -> HTTPException:
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail, headers={"Connection": "close"}
    )
