"""Addresses that a URL of a client may lead to: those of the public internet.

The check runs when a socket is made: after the name was resolved, for the address of the
connection, and for each redirect.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

# Names that are looked up at once; others wait.
LOOKUPS = 8
# RFC 6052: the last 32 bits are an IPv4 address, to which a gateway of the network translates.
_NAT64 = ip_network("64:ff9b::/96")
# Special networks that Python, or an older version of it, counts as public; the third is Azure's.
_SPECIAL = [
    ip_network(each) for each in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20")
]


class AddressRefused(OSError):
    """The address is private, of this host, or otherwise not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address, and an IPv4 address in it, belong to the public internet."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return address in _NAT64 and is_public(IPv4Address(int(address) % 2**32))
    if any(address in network for network in _SPECIAL):
        return False
    if isinstance(address, IPv6Address):
        if address.is_site_local:
            return False
        inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
        return all(is_public(each) for each in inner if each)
    return True


def sockets_to_public(exceptions: Sequence[str] = ()) -> Callable[[Any], socket.socket]:
    """Return a factory of sockets, which raises `AddressRefused` for an address that is not public.

    Args:
        exceptions: networks that are allowed although they are not public.
    """
    networks = [ip_network(each) for each in exceptions]

    def make_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, (host, *_rest) = info
        address = ip_address(host)
        if not is_public(address) and not any(address in network for network in networks):
            raise AddressRefused("not a public address")
        return socket.socket(family, kind, protocol)

    return make_socket


class Resolver(AbstractResolver):
    """Resolves names in threads of its own, because slow names would fill those of the event loop.

    Args:
        timeout_s: limit of one lookup, with its wait for a thread.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(LOOKUPS, "resolver")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        look_up = partial(
            socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
        )
        async with asyncio.timeout(self._timeout_s):
            loop = asyncio.get_running_loop()
            found = await loop.run_in_executor(self._threads, look_up)
        return [
            ResolveResult(
                hostname=host, host=str(name), port=port, family=kind, proto=protocol, flags=0
            )
            for kind, _, protocol, _, (name, *_rest) in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
