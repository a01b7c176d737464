"""The sessions of handlers whose requests may be repeated, and the routes that take one."""

from collections.abc import AsyncIterator
from copy import copy
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from app.core.database import WriteSession
from app.core.database.sessions import _read_session, _write_session
from app.core.http.idempotency.attempt import HEADER, SCOPE, SYNTAX, Attempt, OnlySession, Repeated
from app.core.http.idempotency.middleware import Idempotency
from app.core.http.problems import RESPONSES, BadRequest
from app.core.http.routing import flat


async def _idempotent_session(request: Request) -> AsyncIterator[WriteSession]:
    attempt: Attempt | None = request.scope.get(SCOPE)
    async with attempt.session(request) if attempt else OnlySession() as session:
        yield session


async def _keyed_session(request: Request) -> AsyncIterator[WriteSession]:
    attempt: Attempt | None = request.scope.get(SCOPE)
    if attempt is None:
        raise BadRequest(f"The header {HEADER} is required.")
    async with attempt.session(request) as session:
        yield session


# A `WriteSession`; a client may send a key, or has to send one (400).
IdempotentSessionDep = Annotated[WriteSession, Depends(_idempotent_session, scope="function")]
KeyedSessionDep = Annotated[WriteSession, Depends(_keyed_session, scope="function")]
_SESSIONS: set[Any] = {_idempotent_session, _keyed_session}
_OTHER_SESSIONS: set[Any] = {_read_session, _write_session}


def install_idempotency(app: FastAPI, *, lifetime_s: float) -> None:
    """Add the middleware, and describe the header in OpenAPI; call it after the last route.

    Raises:
        TypeError: when a route takes a second session.
    """
    # Innermost: it sends each answer as the handler has made it.
    app.user_middleware.append(Middleware(Idempotency, lifetime_s=lifetime_s))
    app.add_exception_handler(Repeated, _repeated)
    for route in app.router.routes:
        if isinstance(route, APIRoute) and (calls := _sessions(route.dependant)):
            _refuse_second_session(route)
            # After all others, because one of them may authenticate the caller.
            route.dependant.dependencies.sort(key=lambda each: bool(_sessions(each)))
            _describe(route, is_required=_keyed_session in calls)


def _sessions(dependant: Dependant) -> set[Any]:
    """Return the dependencies of this module that a dependency has."""
    return {each.call for each in flat(dependant)} & _SESSIONS


def _refuse_second_session(route: APIRoute) -> None:
    """Raise TypeError if a function takes another session beside that of this module."""
    for dependant in flat(route.dependant):
        taken = {each.call for each in dependant.dependencies}
        if taken & _SESSIONS and taken & _OTHER_SESSIONS:
            methods = ",".join(sorted(route.methods or ()))
            raise TypeError(
                f"{methods} {route.path}: with an {HEADER}, the transaction has the only "
                "connection. Take no ReadSessionDep and no WriteSessionDep, and read through the "
                "idempotent session, which is accepted wherever a ReadSession is."
            )


async def _repeated(_: Request, error: Exception) -> Response:
    assert isinstance(error, Repeated)
    names, values = error.row["headers"][::2], error.row["headers"][1::2]
    response = Response(error.row["body"], error.row["status"])
    pairs = zip(names, values, strict=True)
    response.raw_headers += [(n.encode("latin-1"), v.encode("latin-1")) for n, v in pairs]
    response.headers["Idempotent-Replayed"] = "true"
    return response


def _describe(route: APIRoute, *, is_required: bool) -> None:
    # A copy, because routes may share it, of the same class (`Upload`).
    extra: dict[str, Any] = copy(route.openapi_extra or {})
    parameter = {
        "name": HEADER,
        "in": "header",
        "required": is_required,
        "description": "The repetition of a request with the same key gets the first answer.",
        "schema": {"type": "string", "pattern": f"^{SYNTAX}$"},
    }
    extra["parameters"] = [*extra.get("parameters", []), parameter]
    errors = {
        "409": f"A conflict, or a request with this {HEADER} has not ended (`Retry-After`)",
        "422": f"Not valid, or the {HEADER} belongs to a request with other contents",
    }
    extra["responses"] = extra.get("responses", {}) | {
        status: {"description": text, "content": RESPONSES["4XX"]["content"]}
        for status, text in errors.items()
    }
    route.openapi_extra = extra
