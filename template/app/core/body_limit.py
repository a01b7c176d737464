"""Refuses a request body that announces to be too large, before any of it is read.

Starlette's `RequestBodyLimitMiddleware`, inside of this, stops the bodies that do not announce it.
"""

from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.problems import problem_response


class BodyLimit:
    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self.app = app
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._is_too_large(scope):
            response = problem_response(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"The request body is larger than {self.max_body_bytes} bytes.",
                headers={"Connection": "close"},
            )
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_too_large(self, scope: Scope) -> bool:
        return any(
            name == b"content-length" and value.isdigit() and int(value) > self.max_body_bytes
            for name, value in scope["headers"]
        )
