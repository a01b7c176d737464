"""Compiled path operations: handlers that do only the work of their signature.

FastAPI solves each request anew from the description of a path operation: exit stacks, four kinds
of parameters, a response that collects the headers of dependencies. None of it depends on the
request, so `compile_route` writes each handler once, as straight-line Python. Answers, errors and
the order of calls are FastAPI's: its own functions make the error wherever a value is invalid, and
its own handler answers when a test overrides a dependency. `python -m app routes` lists the path
operations, and why some keep FastAPI's handler.
"""

from logging import getLogger

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

logger = getLogger(__name__)


def compile_path_operations(app: FastAPI) -> list[tuple[APIRoute, str | None]]:
    """Compile each path operation of `app` that can be compiled, and add `Dispatch`.

    Call it after the last route.

    Return each with the reason why it keeps FastAPI's handler, or None. With a FastAPI of other
    internals all keep it: the service is slower, and answers the same.
    """
    routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
    try:
        # Fails if a private name of FastAPI is gone.
        from app.core.http.compiled import fastapi_internals
        from app.core.http.compiled.compiler import NotCompiled, compile_route
        from app.core.http.compiled.dispatch import Dispatch

        reason = fastapi_internals.unknown()
    except ImportError as error:
        reason = str(error)
    if reason is not None:
        logger.warning("FastAPI's own handlers answer: %s", reason)
        return [(route, reason) for route in routes]
    classes: list[object] = [each.cls for each in app.user_middleware]
    if Dispatch not in classes:
        # The last is the innermost, also when the team adds others.
        app.user_middleware.append(Middleware(Dispatch))
    found: list[tuple[APIRoute, str | None]] = []
    for route in routes:
        try:
            route.app = compile_route(route)
        except NotCompiled as error:
            found.append((route, str(error)))
        else:
            found.append((route, None))
    return found
