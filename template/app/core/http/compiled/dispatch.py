"""Calls compiled handlers without the layers of FastAPI that they do not need."""

from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute, APIRouter, APIWebSocketRoute
from fastapi.telemetry._api import _get_request_telemetry
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.routing import WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.http.routing import Matcher, route_path

# FastAPI's stack for files of forms, which marks requests that are inside of its layers.
LAYERS = "fastapi_middleware_astack"


class Dispatch:
    """The innermost middleware: finds the route of a request, and calls its compiled handler.

    FastAPI's layers answer the rest: routes without a compiled handler or with a body limit of
    their own, unknown paths and methods, and all requests while a dependency is overridden or
    FastAPI's telemetry follows them.

    The routes are read again when their number changes.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        # Another layer if middleware was appended after this one.
        self._handlers = (
            (app._exception_handlers, app._status_handlers)
            if type(app) is ExceptionMiddleware
            else None
        )
        self._owner: FastAPI | None = None
        self._count = -1
        self._is_plain = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._find(scope) if scope["type"] == "http" else None
        await (app or self.app)(scope, receive, send)

    def _find(self, scope: Scope) -> ASGIApp | None:
        """Return the compiled handler of a request, for which the scope is then ready."""
        owner: FastAPI = scope["app"]
        if (
            self._handlers is None
            or owner.dependency_overrides
            or LAYERS in scope
            or scope.get("fastapi.telemetry") is not None
            or _get_request_telemetry() is not None
        ):
            return None
        routes = owner.router.routes
        if owner is not self._owner or len(routes) != self._count:
            self._read(owner)
        if not self._is_plain:
            return None
        path, method = route_path(scope), scope["method"]
        for place, route in self._matcher.candidates(path):
            # A route that is opaque, or no longer there, is for the router.
            if route is None or routes[place] is not route:
                return None
            found = route.path_regex.match(path)
            if found and method in (route.methods or ()):
                handler: ASGIApp | None = getattr(route.app, "direct", None)
                if handler is None or route.dependency_overrides_provider is not owner:
                    return None
                values: dict[str, Any] = found.groupdict()
                for name, value in values.items():
                    values[name] = route.param_convertors[name].convert(value)
                if "path_params" in scope:
                    values = {**scope["path_params"], **values}
                scope["path_params"] = values
                scope["endpoint"] = route.endpoint
                scope["route"] = route
                scope.setdefault("router", owner.router)
                scope["starlette.exception_handlers"] = self._handlers
                return handler
        return None

    def _read(self, owner: FastAPI) -> None:
        """Read the routes, which change if a test adds some."""
        router = owner.router
        self._owner, self._count = owner, len(router.routes)
        self._is_plain = (
            type(router) is APIRouter
            and router.middleware_stack == router.app
            and not router.form_limits
        )
        self._matcher = Matcher(
            (
                getattr(route, "path_format", None),
                getattr(route, "param_convertors", {}),
                (place, route if type(route) is APIRoute and route.methods else None),
            )
            for place, route in enumerate(router.routes)
            if type(route) not in (WebSocketRoute, APIWebSocketRoute)
        )
