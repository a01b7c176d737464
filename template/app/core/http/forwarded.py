"""The client's address and the scheme behind trusted proxies: X-Forwarded-For and -Proto.

uvicorn's middleware accepts `*`, by which clients choose their address, and hosts that are no
addresses.
"""

import re
from collections.abc import Awaitable, Collection
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from app.core.settings.server import UNIX

# `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1` or `[2001:db8::1]:80`.
_HOP = re.compile(
    r"([\d.]+)(?::\d+)?|\[([\da-f:.]+)\](?::\d+)?|([\da-f:.]+)", re.ASCII | re.IGNORECASE
)
_MAX_HOP_LENGTH = 60
# More proxies than a service has.
_MAX_HOPS = 20


class Forwarded:
    """Replaces the proxy's address in the scope by the client's, which the proxy has appended.

    `proxies` are networks and `unix`, which is every peer on a UNIX socket. The client is the
    last address that is none of a proxy: only the addresses before it are the client's choice.
    """

    def __init__(self, app: ASGIApp, *, proxies: Collection[str]) -> None:
        self.app = app
        self.networks = [ip_network(each) for each in proxies if each != UNIX]
        self.trusts_unix = UNIX in proxies
        self.hop = lru_cache(4096)(self._hop)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "lifespan":
            peer = scope.get("client")
            # A UNIX socket has no address.
            if self.hop(peer[0])[1] if peer else self.trusts_unix:
                self._resolve(scope)
        return self.app(scope, receive, send)

    def _resolve(self, scope: Scope) -> None:
        """Set `client` and `scheme` from the headers, as far as these are valid."""
        hops: list[bytes] = []
        scheme = b""
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                hops += value.split(b",")
            elif name == b"x-forwarded-proto":
                scheme = value.rpartition(b",")[2].strip().lower()
        for text in reversed(hops[-_MAX_HOPS:]):
            address, is_proxy = self.hop(text.strip()[:_MAX_HOP_LENGTH].decode("latin-1"))
            if address:
                scope["client"] = (address, 0)
            if not is_proxy:
                break
        if scheme in (b"http", b"https"):
            kind = b"ws" if scope["type"] == "websocket" else b"http"
            scope["scheme"] = scheme.replace(b"http", kind).decode()

    def _hop(self, text: str) -> tuple[str, bool]:
        """Return the address, which is empty if it is not valid, and whether it is a proxy's."""
        match = _HOP.fullmatch(text)
        try:
            address = ip_address(match[match.lastindex or 0] if match else "")
        except ValueError:
            return "", False
        if isinstance(address, IPv6Address):
            # A socket for both versions shows IPv4 as `::ffff:192.0.2.1`.
            address = address.ipv4_mapped or address
        return str(address), any(address in network for network in self.networks)
