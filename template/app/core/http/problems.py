"""Errors for clients: each one is an `application/problem+json` document (RFC 9457)."""

from http import HTTPStatus
from logging import getLogger
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import iter_route_contexts
from fastapi.utils import is_body_allowed_for_status_code
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.core.telemetry import request_id

# Without limits, a request of many unknown fields gets a larger response.
MAX_FIELDS = 20
MAX_CHARACTERS = 100

logger = getLogger(__name__)


class Problem(Exception):
    """An error with an HTTP status; `detail` is a sentence for the client."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    headers: ClassVar[dict[str, str]] = {}

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class BadRequest(Problem):
    status = HTTPStatus.BAD_REQUEST


class NotFound(Problem):
    status = HTTPStatus.NOT_FOUND


class Conflict(Problem):
    status = HTTPStatus.CONFLICT


class Unprocessable(Problem):
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class Unavailable(Problem):
    """A dependency of the request is unavailable; the client may retry soon."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Busy(Unavailable):
    """The service has too many requests, and is healthy otherwise."""


class ProblemDocument(BaseModel):
    """The body of every error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    # Not in a response that the cache shares.
    request_id: str = ""


_CONTENT = {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}}
# For OpenAPI: every route may return these.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {
        "description": "An error of the request. Text with U+0000 is not valid (422).",
        "content": _CONTENT,
    },
    "5XX": {"description": "An error of the service", "content": _CONTENT},
}


def problem_response(
    status: int, detail: str | None = None, *, headers: dict[str, str] | None = None, **members: Any
) -> Response:
    """Return a problem document with extension `members`.

    `detail` defaults to the description of the status.
    """
    named = HTTPStatus(status)
    detail = detail or named.description or named.phrase
    body = {"type": "about:blank", "title": named.phrase, "status": status, "detail": detail}
    if identifier := request_id.current():
        body["request_id"] = identifier
    return Response(orjson.dumps(body | members), status, headers, "application/problem+json")


def install(app: FastAPI) -> None:
    """Handle every kind of error with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, answer_http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(WebSocketDisconnect, _left_socket)
    # For errors of the team's middleware; `create_app` handles those further inside.
    app.add_exception_handler(Exception, unexpected)


async def _problem(_: Request, error: Exception) -> Response:
    """Answer a `Problem`, and log it when it is the fault of the service."""
    assert isinstance(error, Problem)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        cause = f" ({error.__cause__!r})" if error.__cause__ else ""
        logger.warning("%s%s", error.detail, cause)
    return problem_response(error.status, error.detail, headers=error.headers)


async def answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer an error of Starlette; a method without a route gets `Allow`, and OPTIONS a 204."""
    assert isinstance(error, HTTPException)
    status, headers = error.status_code, dict(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = _methods(request) or headers.get("Allow", "")
        status = HTTPStatus.NO_CONTENT if request.method == "OPTIONS" else status
    if not is_body_allowed_for_status_code(status):
        return Response(status_code=status, headers=headers)
    return problem_response(status, str(error.detail), headers=headers)


def _methods(request: Request) -> str:
    """Return the methods of all routes with the path of the request; empty below a mount."""
    methods: set[str] = set()
    for route in iter_route_contexts(request.app.router.routes):
        if route.methods and route.matches(request.scope)[0] is not Match.NONE:
            methods |= {*route.methods, "OPTIONS"}
    return ", ".join(sorted(methods | {"HEAD"} if "GET" in methods else methods))


async def _invalid(_: Request, error: Exception) -> Response:
    """Answer 422 with the first `MAX_FIELDS` fields that are not valid."""
    assert isinstance(error, RequestValidationError)
    # The location ("body", "email") is the field `body.email`; a name may be as long as the body.
    fields = [
        {"field": ".".join(map(str, item["loc"]))[:MAX_CHARACTERS], "message": _message(item)}
        for item in error.errors()[:MAX_FIELDS]
    ]
    names = ", ".join(dict.fromkeys(item["field"] for item in fields))
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, f"Not valid: {names}.", errors=fields)


def _message(item: dict[str, Any]) -> str:
    """Return the message of an error, cut, and without the value that the client sent."""
    # The tag of a union is the only value that a message of Pydantic quotes.
    quoted = f"'{item.get('ctx', {}).get('tag')}' "
    return str(item["msg"]).replace(quoted, "", 1)[: 2 * MAX_CHARACTERS]


async def _left(_: Request, _error: Exception) -> Response:
    """Send no answer: the client left, or was too slow, while an endpoint read the body."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def _left_socket(_: WebSocket, _error: Exception) -> None:
    """Send no answer: the client left while an endpoint used its WebSocket."""


async def unexpected(_: Request, error: Exception) -> Response:
    """Answer any other error; Starlette raises it again, for telemetry and the server's log."""
    return problem_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "An unexpected error, which was logged.",
        # The server closes the connection after an error. The middleware that adds Cache-Control
        # is further inside.
        headers={"Connection": "close", "Cache-Control": "private, no-store"},
    )
