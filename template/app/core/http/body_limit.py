"""Refuse bodies that are too large, or of another kind than declared, before they cost work."""

from collections.abc import Awaitable, Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.telemetry.activity import note_body
from app.core.telemetry.requests import of_client

_ANNOUNCEMENTS = (b"content-length", b"transfer-encoding")


class Upload(dict[str, Any]):
    """The media types of the body of a route, and its limit in bytes: an `openapi_extra`.

        PICTURE = Upload(("image/png", "image/jpeg"), max_bytes=5 * 1024**2)

        @router.post("/pictures", openapi_extra=PICTURE)
        async def add_picture(request: Request) -> None:
            picture = await request.body()

    Another media type is answered with 415, and a larger body with 413, before the body is read.
    With `("application/json",)`, a route whose parameter is a model has a limit of its own.
    """

    def __init__(self, media_types: tuple[str, ...], *, max_bytes: int) -> None:
        contents: dict[str, Any] = {}
        for media_type in media_types:
            # FastAPI adds the schema of the model.
            is_json = media_type == "application/json"
            schema = {} if is_json else {"schema": {"type": "string", "format": "binary"}}
            contents[media_type] = schema
        super().__init__(requestBody={"content": contents, "required": True})
        self.media_types = media_types
        self.max_bytes = max_bytes


class RequestLimits:
    """ASGI middleware: 413 and 415 when an endpoint reads the body.

    A body has at most `max_body_bytes`, unless its route declares an `Upload`. JSON has at most
    `max_json_values`: a megabyte of wrong values would hold the event loop for a second.
    """

    def __init__(self, app: ASGIApp, *, max_body_bytes: int, max_json_values: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes
        self.max_json_values = max_json_values

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            # In HTTP/1 a request without either header has no body.
            is_announced = [name for name, _ in scope["headers"] if name in _ANNOUNCEMENTS]
            if is_announced or not scope["http_version"].startswith("1"):
                receive = self._limited(scope, receive)
        return self.app(scope, receive, send)

    def _limited(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that raises HTTPException for a body that is too large or encoded."""
        # The first header of each name, which Starlette reads as well.
        headers = dict(reversed(scope["headers"]))
        codings = {v.lower() for k, v in scope["headers"] if k == b"content-encoding"}
        media_type = headers.get(b"content-type", b"").decode("latin-1").lower()
        length = headers.get(b"content-length", b"")
        announced = int(length) if length.isdigit() else 0
        json: list[bytes] = []
        size, is_whole = 0, False

        async def limited() -> Message:
            nonlocal size, is_whole
            if is_whole:
                return await receive()
            if not codings <= {b"identity"}:
                reason = "Content-Encoding is not supported: send the body without it."
                raise _refusal(415, reason, {"Accept-Encoding": "identity"})
            # The route is known by now, because its endpoint reads the body.
            extra = getattr(scope.get("route"), "openapi_extra", None)
            upload = extra if isinstance(extra, Upload) else None
            if upload and media_type.partition(";")[0].strip() not in upload.media_types:
                kinds = ", ".join(upload.media_types)
                raise _refusal(415, f"Expected one of {kinds}.", {"Accept": kinds})
            most = upload.max_bytes if upload else self.max_body_bytes
            # An announced size is refused before the client sends the body.
            message = {} if announced > most else await of_client(receive())
            body = message.get("body", b"")
            size += len(body)
            if max(size, announced) > most:
                raise _refusal(413, f"The body is over {most} bytes.")
            if "json" in media_type:
                json.append(body)
                if not message.get("more_body"):
                    if has_more_values(b"".join(json), self.max_json_values):
                        raise _refusal(413, f"The JSON has over {self.max_json_values} values.")
                    json.clear()
            if not message.get("more_body"):
                is_whole = True
                note_body()
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


def _refusal(status: int, detail: str, headers: Mapping[str, str] | None = None) -> HTTPException:
    return HTTPException(status, detail, {"Connection": "close", **(headers or {})})
