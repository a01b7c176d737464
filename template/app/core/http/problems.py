"""Errors as answers: every error that a client sees is an `application/problem+json` (RFC 9457)."""

from collections.abc import Sequence
from http import HTTPStatus
from logging import getLogger
from typing import Any, ClassVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

# A body of unknown fields would else be answered with a larger one.
MAX_FIELDS = 20

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
    """Something that the request needs cannot be had now; trying again soon makes sense."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    headers: ClassVar[dict[str, str]] = {"Retry-After": "1"}


class Busy(Unavailable):
    """Too many requests at once; the service is well."""


class ProblemDocument(BaseModel):
    """What clients get for every error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str


_CONTENT = {"application/problem+json": {"schema": ProblemDocument.model_json_schema()}}
# For OpenAPI: every route may answer so.
RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "What is wrong with the request", "content": _CONTENT},
    "5XX": {"description": "What is wrong with the service", "content": _CONTENT},
}


def problem_response(
    status: int, detail: str | None = None, *, headers: dict[str, str] | None = None, **members: Any
) -> Response:
    """A problem document with extension `members`; `detail` defaults to what the status means."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail or HTTPStatus(status).description or HTTPStatus(status).phrase,
    }
    return Response(
        orjson.dumps(body | members),
        status_code=status,
        media_type="application/problem+json",
        headers=headers,
    )


def install(app: FastAPI) -> None:
    """Answer every kind of error with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    if error.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.warning("%s (%r)", error.detail, error.__cause__)
    return problem_response(error.status, error.detail, headers=error.headers)


async def _http_exception(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers) if error.headers else None
    if error.status_code < HTTPStatus.OK or error.status_code in (
        HTTPStatus.NO_CONTENT,
        HTTPStatus.NOT_MODIFIED,
    ):
        return Response(status_code=error.status_code, headers=headers)
    return problem_response(error.status_code, str(error.detail), headers=headers)


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fields = [
        {"field": _field(item["loc"]), "message": item["msg"]}
        for item in error.errors()[:MAX_FIELDS]
    ]
    names = ", ".join(dict.fromkeys(item["field"] for item in fields))
    return problem_response(HTTPStatus.UNPROCESSABLE_ENTITY, f"Not valid: {names}.", errors=fields)


async def _unexpected(_: Request, error: Exception) -> Response:
    # Starlette raises the error again after this answer, for the server to log. The server then
    # closes the connection, and the client must know before it sends its next request.
    return problem_response(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "An unexpected error; it was logged.",
        # It is made outside of all middleware, so nothing else says this.
        headers={"Connection": "close", "Cache-Control": "private, no-store"},
    )


def _field(location: Sequence[Any]) -> str:
    """`("body", "email")` as `body.email`, and no longer than a name may be."""
    return ".".join(str(part) for part in location)[:100]
