"""The declarations of routes about their callers, as dependencies of a route or of a router."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Security
from fastapi.dependencies.models import _get_oauth_scopes
from fastapi.openapi.models import HTTPBearer
from fastapi.routing import APIRoute, APIWebSocketRoute, RouteContext, iter_route_contexts
from fastapi.security import SecurityScopes
from fastapi.security.base import SecurityBase
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.cache.policy import Audience, policy_of
from app.core.http.problems import RESPONSES
from app.core.http.routing import flat
from app.core.security.authentication import authenticate, authenticating
from app.core.security.principal import Principal
from app.core.settings.auth import AuthSettings


class _Bearer(SecurityBase):
    """The dependency of all protected routes, and their scheme in the OpenAPI document."""

    def __init__(self) -> None:
        self.scheme_name = "Bearer"
        self.model = HTTPBearer(
            bearerFormat="JWT", description="An access token of the issuer, or an API key."
        )

    async def __call__(self, connection: HTTPConnection, required: SecurityScopes) -> Principal:
        """Return the caller if it has all of the scopes.

        Raises:
            HTTPException: 401 without a valid credential, and 403 without a scope (RFC 6750).
        """
        principal = connection.scope.get("principal") or await authenticate(connection.scope)
        if not principal.scopes.issuperset(required.scopes):
            scopes = " ".join(required.scopes)
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                f"This needs the scope {scopes}.",
                {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scopes}"'},
            )
        return principal


async def _anybody() -> None:
    pass


# Compiled handlers leave it out. The type of a function has no attributes.
_anybody.only_declares = True  # type: ignore[attr-defined]
_bearer = _Bearer()
_RESPONSES: dict[int | str, dict[str, Any]] = {
    401: RESPONSES["4XX"] | {"description": "No valid credential"},
    403: RESPONSES["4XX"] | {"description": "The credential lacks a scope"},
}

# The caller, for handlers that need to know it. A route that takes it is protected.
Caller = Annotated[Principal, Security(_bearer)]


def requires(*scopes: str) -> Any:
    """Declare that callers need all of these scopes; with none, any valid credential passes."""
    return Security(_bearer, scopes=scopes)


def public() -> Any:
    """Declare that anybody may call, without a credential."""
    return Depends(_anybody)


class Guarded:
    """A mounted application: `app.mount("/admin", Guarded(admin, requires("admin")))`.

    Args:
        declaration: `requires(...)` or `public()`.

    Raises:
        TypeError: when the declaration is anything else.
    """

    def __init__(self, app: ASGIApp, declaration: Any) -> None:
        called = getattr(declaration, "dependency", None)
        if called is not _bearer and called is not _anybody:
            raise TypeError(
                f"{declaration!r}: expected `security.requires(...)` or `security.public()`"
            )
        self._app = app
        self._scopes: Sequence[str] | None = getattr(declaration, "scopes", None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._scopes is not None:
            await _bearer(HTTPConnection(scope), SecurityScopes([*self._scopes]))
        await self._app(scope, receive, send)


def scopes_of(route: RouteContext | APIRoute | APIWebSocketRoute) -> frozenset[str] | None:
    """Return the scopes that a route requires; None if it requires no credential."""
    dependant = getattr(route, "dependant", None)
    required = [each for each in flat(dependant) if each.call is _bearer] if dependant else []
    if not required:
        return None
    return frozenset(scope for each in required for scope in _get_oauth_scopes(dependant=each))


def check_declarations(app: FastAPI) -> None:
    """Raise TypeError with each route that declares no scopes and is not public, or is both.

    The cache answers before a route checks its caller, so a route with scopes has no public policy.
    """
    wrong = []
    for context in iter_route_contexts(app.router.routes):
        policy = policy_of(context.endpoint)
        if policy and policy.audience is Audience.EVERYBODY and scopes_of(context) is not None:
            raise TypeError(f"{context.path}: requires a credential, so it cannot be @public")
        given = getattr(context, "dependencies", ())
        is_public = any(each.dependency is _anybody for each in given)
        if is_public == (scopes_of(context) is not None) and not is_own(context):
            methods = ",".join(sorted(context.methods or ()))
            wrong.append(f"{methods} {context.path}".strip())
    if wrong:
        raise TypeError(
            f"{', '.join(wrong)}: declare either `dependencies=[security.requires(...)]` or "
            "`dependencies=[security.public()]`, on the route or a router that includes it. For an "
            "application that is mounted, write `security.Guarded(application, ...)`."
        )


@asynccontextmanager
async def guarding(app: FastAPI, settings: AuthSettings) -> AsyncIterator[None]:
    """Check credentials for the block.

    Raises:
        TypeError: when a route declares nothing about its callers, or declares it wrongly.
    """
    check_declarations(app)
    async with authenticating(settings):
        yield


def describe(app: FastAPI) -> None:
    """Add 401 and 403 to the documentation of protected routes."""
    for route in app.router.routes:
        if isinstance(route, APIRoute) and scopes_of(route) is not None:
            route.responses = _RESPONSES | route.responses


def is_own(context: RouteContext) -> bool:
    """Return whether a route needs no declaration: probes, documentation, files, guarded mounts."""
    mounted = getattr(context.original_route, "app", None)
    module = getattr(context.endpoint, "__module__", "")
    return (
        module.startswith(("app.core.", "fastapi."))
        or context.path == "/static"
        or isinstance(mounted, Guarded)
    )
