"""The admin port: pages for operators, such as the details of readiness and the docs.

Each worker listens on two addresses. The port on which a connection arrived decides which pages
there are; nothing in a request can change it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.http.problems import problem_response

Page = Callable[[], Awaitable[Response]]


def is_admin(scope: Scope, port: int) -> bool:
    """Return whether the connection of an ASGI scope arrived on the admin port."""
    # The address of the socket, not the Host header.
    return bool(port) and (scope.get("server") or (None, None))[1] == port


class Admin:
    """ASGI middleware outside of all others: serves `pages`, by path, and the docs on `port`.

    Every other path and method there is a 404. 0 is no port.
    """

    def __init__(self, app: ASGIApp, *, port: int, pages: Mapping[str, Page]) -> None:
        self._app = app
        self._port = port
        self._pages = pages

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not is_admin(scope, self._port):
            return self._app(scope, receive, send)
        return self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            response = await self._answer(scope)
            await response(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Scope) -> Response:
        path, app = scope["path"], scope["app"]
        if scope["method"] not in ("GET", "HEAD"):
            return problem_response(HTTPStatus.NOT_FOUND)
        if path == "/docs":
            # Without "Execute", which would ask this port.
            parameters: dict[str, Any] = {"supportedSubmitMethods": []}
            return get_swagger_ui_html(
                openapi_url="openapi.json", title=app.title, swagger_ui_parameters=parameters
            )
        if path == "/openapi.json":
            return JSONResponse(await asyncio.to_thread(app.openapi))
        page = self._pages.get(path)
        return await page() if page else problem_response(HTTPStatus.NOT_FOUND)
