"""Addresses that a URL of a client may lead to: those of the public internet.

The check runs when a socket is made: after the name was resolved, for the address of the
connection, and for each redirect.
"""

import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

# RFC 6052: the last 32 bits are an IPv4 address, to which a gateway of the network translates.
_NAT64 = ip_network("64:ff9b::/96")


class AddressRefused(OSError):
    """The address is private, of this host, or otherwise not public."""


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Return whether the address, and an IPv4 address in it, belong to the public internet."""
    if not address.is_global or address.is_multicast or address.is_reserved:
        return address in _NAT64 and is_public(IPv4Address(int(address) % 2**32))
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
