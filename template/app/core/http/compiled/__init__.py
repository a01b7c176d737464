"""Compiled path operations: handlers that do only the work of their signature.

FastAPI solves each request anew from the description of a path operation: three exit stacks, a
pass over four kinds of parameters, a response that carries the headers of dependencies. None of
it depends on the request, so `compile_route` writes the handler once, as straight-line Python.
Responses, errors and the order of calls are FastAPI's; wherever a value is not valid, FastAPI's
own functions make the error. `python -m app routes` shows which path operations are compiled.
"""

from fastapi import FastAPI
from fastapi.routing import APIRoute

from app.core.http.compiled.compiler import NotCompiled, compile_route

__all__ = ["NotCompiled", "compile_path_operations", "compile_route"]


def compile_path_operations(app: FastAPI) -> None:
    """Replace the handlers of the routes of `app`, which must be complete, where possible."""
    for route in app.router.routes:
        if isinstance(route, APIRoute):
            try:
                route.app = compile_route(route)
            except NotCompiled:
                continue
