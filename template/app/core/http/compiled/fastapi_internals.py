"""Recognises the FastAPI whose handlers `compiler` and `runtime` copy, by its source text."""

import inspect
from hashlib import sha256
from typing import Any

from fastapi import FastAPI, __version__, routing
from fastapi._compat import ModelField
from fastapi.concurrency import _asynccontextmanager_with_shielded_exit
from fastapi.dependencies import utils
from fastapi.middleware.asyncexitstack import AsyncExitStackMiddleware
from fastapi.routing import APIRoute, APIRouter
from starlette._exception_handler import wrap_app_handling_exceptions
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.responses import Response
from starlette.routing import Route

# Code of FastAPI and Starlette that compiled handlers replace.
COPIED: tuple[Any, ...] = (
    routing.request_response,
    routing.get_request_handler,
    routing.run_endpoint_function,
    routing.serialize_response,
    routing._build_response_args,
    utils.solve_dependencies,
    utils.request_params_to_args,
    utils._request_param_model_to_args,
    utils._get_multidict_value,
    utils._get_multidict_extras,
    utils._validate_value_with_model_field,
    utils._solve_generator,
    _asynccontextmanager_with_shielded_exit,
    ModelField.validate,
    ModelField.serialize,
    ModelField.serialize_json,
    Response.__init__,
    Response.render,
    Response.init_headers,
    Response.__call__,
    FastAPI.build_middleware_stack,
    APIRouter.app,
    APIRoute.matches,
    APIRoute.handle,
    Route.matches,
    Route.handle,
    AsyncExitStackMiddleware.__call__,
    ExceptionMiddleware,
    wrap_app_handling_exceptions,
)
# Digests of these sources, for which FastAPI's own tests passed: `nox -s fastapi-suite` of the
# template.
KNOWN = frozenset({"32d88e21baa11047"})


def digest() -> str:
    """Return the digest of the sources."""
    text = "".join(inspect.getsource(copied) for copied in COPIED)
    return sha256(text.encode()).hexdigest()[:16]


def unknown() -> str | None:
    """Return a sentence if this FastAPI is not known."""
    try:
        if digest() in KNOWN:
            return None
    except OSError:
        return f"FastAPI {__version__} is installed without its source text."
    return f"FastAPI {__version__} has handlers that this version of core does not know."
