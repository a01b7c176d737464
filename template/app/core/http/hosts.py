"""Check the header `Host`, and the `Origin` of a WebSocket."""

from collections.abc import Awaitable, Collection
from http import HTTPStatus

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.http.problems import problem_response
from app.core.settings.edge import host_name, parse_host

# An orchestrator names the address of the instance, and HAProxy nothing.
_PROBES = frozenset(("/livez", "/readyz"))


class Hosts:
    """ASGI middleware: 400 for a `Host` that is malformed, repeated, missing, or not in `allowed`.

    `/livez` and `/readyz` answer for every well-formed host. The server ignores the host of an
    absolute request target, so only the header counts.

    A page of any site may open a WebSocket, with the cookies of the browser, and CORS does not
    apply: 403 for the `Origin` of another host, unless `origins` has it. Other clients send none.

    Args:
        allowed: names such as `api.example.org` or `*.example.org`, in lower case and without
            ports, which are ignored; empty for all hosts.
        origins: such as `https://app.example.org`; `*` allows none.
        root_path: the prefix that a proxy has removed from the path; added again, where ASGI
            expects it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        allowed: Collection[str],
        origins: Collection[str] = (),
        root_path: str = "",
    ) -> None:
        self.app = app
        self.names = frozenset(name for name in allowed if not name.startswith("*"))
        self.suffixes = tuple(name[1:] for name in allowed if name.startswith("*"))
        self.allows_all = not allowed
        self.origins = frozenset(origin.encode() for origin in origins)
        self.root_path = root_path

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            sent = b",".join([value for name, value in scope["headers"] if name == b"host"])
            # HTTP/1.0 has no such header.
            is_missing = not sent and scope.get("http_version") == "1.0"
            host = ("", b"") if is_missing else parse_host(sent)
            if host is None or not (self._allows(host[0]) or scope["path"] in _PROBES):
                reason = "missing or malformed" if host is None else "unknown"
                response = problem_response(HTTPStatus.BAD_REQUEST, f"The header Host is {reason}.")
                return response(scope, receive, send)
            if scope["type"] == "websocket" and not self._may_open(scope, host[0]):
                detail = "The header Origin names a site that is not in CORS_ORIGINS."
                response = problem_response(HTTPStatus.FORBIDDEN, detail)
                return response(scope, receive, send)
            if host[1] != sent:
                # One host has one entry of the cache.
                headers = [(k, host[1] if k == b"host" else v) for k, v in scope["headers"]]
                scope["headers"] = headers
            if self.root_path:
                # In place: telemetry, further outside, finds the route in the same scope.
                scope["root_path"] = self.root_path
                scope["path"] = self.root_path + scope["path"]
                scope["raw_path"] = self.root_path.encode() + scope.get("raw_path", b"")
        return self.app(scope, receive, send)

    def _allows(self, name: str) -> bool:
        return self.allows_all or name in self.names or name.endswith(self.suffixes)

    def _may_open(self, scope: Scope, host: str) -> bool:
        """Return whether the page that opens a WebSocket is of the same host or an allowed one.

        Cookies belong to a host with all its ports, and proxies do not pass its port on.
        """
        sent = [value for name, value in scope["headers"] if name == b"origin"]
        return all(
            origin in self.origins or host_name(origin.partition(b"://")[2]) == host
            for origin in sent
        )
