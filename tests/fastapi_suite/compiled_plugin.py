"""A pytest plugin that compiles each path operation of FastAPI's tests, and counts them.

Applications have core's innermost middleware, which calls handlers without FastAPI's layers.
"""

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import fastapi
import fastapi.routing
import pytest
from app.core.http.compiled.compiler import Compiler, NotCompiled
from app.core.http.compiled.dispatch import Dispatch
from starlette.middleware import Middleware

COUNTS = Path(os.environ["COMPILED_COUNTS"])
counts: Counter[str] = Counter()
dispatched: Counter[str] = Counter()

construct = fastapi.routing.APIRoute.__init__
build = fastapi.FastAPI.build_middleware_stack
construct_included = fastapi.routing._EffectiveRouteContext.from_api_route.__func__


def install(state: Any, route: fastapi.routing.APIRoute) -> None:
    """Replace the handler of a route, or of the route of an included router."""
    try:
        if type(route) is not fastapi.routing.APIRoute:
            raise NotCompiled("its class is another")
        state.app = Compiler(state).compile()
    except NotCompiled as reason:
        counts[str(reason)] += 1
    else:
        counts["compiled"] += 1


def __init__(self: fastapi.routing.APIRoute, *arguments: Any, **options: Any) -> None:
    construct(self, *arguments, **options)
    install(self, self)


def from_api_route(cls: Any, **options: Any) -> Any:
    context = construct_included(cls, **options)
    install(context, options["original_route"])
    return context


def build_middleware_stack(self: fastapi.FastAPI) -> Any:
    middleware = self.user_middleware
    self.user_middleware = [*middleware, Middleware(CountedDispatch)]
    try:
        return build(self)
    finally:
        self.user_middleware = middleware


class CountedDispatch(Dispatch):
    """Counts the requests that skip FastAPI's layers, and the others."""

    def _find(self, scope: Any) -> Any:
        app = super()._find(scope)
        dispatched["without layers" if app else "with layers"] += 1
        return app


fastapi.FastAPI.build_middleware_stack = build_middleware_stack
fastapi.routing.APIRoute.__init__ = __init__
fastapi.routing._EffectiveRouteContext.from_api_route = classmethod(from_api_route)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    COUNTS.mkdir(exist_ok=True)
    (COUNTS / f"{os.getpid()}.json").write_text(json.dumps(counts))
    (COUNTS / f"{os.getpid()}.requests").write_text(json.dumps(dispatched))
