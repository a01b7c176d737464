"""Refuse request bodies that are too large: by Content-Length, or else while they are read.

Requests without a body or with a Content-Length pass without another layer.
"""

from http import HTTPStatus

from starlette.middleware.body_limit import RequestBodyLimitMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.http.problems import problem_response


class BodyLimit:
    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.counting = RequestBodyLimitMiddleware(app, max_body_size=max_body_bytes)
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = None
        # In HTTP/1 a request without either header has no body.
        unannounced = not scope["http_version"].startswith("1")
        for name, value in scope["headers"]:
            if name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                unannounced = True
        if length is not None and length.isdigit() and int(length) > self.max_body_bytes:
            response = problem_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request body is larger than {self.max_body_bytes} bytes.",
                headers={"Connection": "close"},
            )
            await response(scope, receive, send)
            return
        await (self.counting if unannounced else self.app)(scope, receive, send)
