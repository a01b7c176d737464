"""Headers that tell browsers to be careful with the responses of an API (OWASP)."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = [
    # A response is of its declared type, so JSON never runs as a script.
    (b"x-content-type-options", b"nosniff"),
    # URLs have identifiers, which no other site needs.
    (b"referrer-policy", b"no-referrer"),
    # No page of another site shows this one in a frame.
    (b"content-security-policy", b"frame-ancestors 'none'"),
]
_HSTS = b"strict-transport-security"
_NAMES = {_HSTS, *dict(_HEADERS)}


class SecurityHeaders:
    """ASGI middleware: adds each header that the response does not have.

    Args:
        hsts_max_age_s: browsers use HTTPS alone for so long; 0 says nothing about it.
    """

    def __init__(self, app: ASGIApp, *, hsts_max_age_s: int = 0) -> None:
        self.app = app
        hsts = (_HSTS, b"max-age=%d" % hsts_max_age_s)
        # Browsers ignore the header without TLS (RFC 6797, section 8.1).
        self.secure = [*_HEADERS, hsts] if hsts_max_age_s else _HEADERS

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self.app(scope, receive, send)
        added = self.secure if scope["scheme"] == "https" else _HEADERS

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                own = [name for name, _ in headers if name in _NAMES]
                missing = [header for header in added if header[0] not in own] if own else added
                message = {**message, "headers": [*headers, *missing]}
            return send(message)

        return self.app(scope, receive, send_with_headers)
