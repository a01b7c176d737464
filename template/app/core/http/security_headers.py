"""Headers that tell browsers to be careful with the responses of an API (OWASP)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = [
    # A response is of its declared type, so JSON never runs as a script.
    (b"x-content-type-options", b"nosniff"),
    # URLs have identifiers, which no other site needs.
    (b"referrer-policy", b"no-referrer"),
    # No page of another site shows this one in a frame.
    (b"content-security-policy", b"frame-ancestors 'none'"),
]


class SecurityHeaders:
    """ASGI middleware: adds each header that the response does not have.

    Args:
        hsts_max_age_s: browsers use HTTPS alone for so long; 0 says nothing about it.
    """

    def __init__(self, app: ASGIApp, *, hsts_max_age_s: int = 0) -> None:
        self.app = app
        hsts = (b"strict-transport-security", b"max-age=%d" % hsts_max_age_s)
        # Browsers ignore the header without TLS (RFC 6797, section 8.1).
        self.secure = [*_HEADERS, hsts] if hsts_max_age_s else _HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        added = self.secure if scope["scheme"] == "https" else _HEADERS

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                names = {name for name, _ in headers}
                missing = [header for header in added if header[0] not in names]
                message = {**message, "headers": [*headers, *missing]}
            await send(message)

        await self.app(scope, receive, send_with_headers)
