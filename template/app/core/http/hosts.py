"""The form of a host: a name, an IPv4 address, or an IPv6 address in brackets, with a port."""

import re
from ipaddress import ip_address

_HOST = re.compile(
    r"(?:\[(?P<v6>[^]]+)\]|(?P<v4>[\d.]+)|[\w.-]{1,253})(?::(?P<port>\d{1,5}))?", re.ASCII
)


def is_host(value: str) -> bool:
    """Return whether a `Host` header may have this value."""
    match = _HOST.fullmatch(value)
    if match is None or int(match["port"] or 0) > 65535:
        return False
    address = match["v6"] or match["v4"]
    if address is None:
        return True
    try:
        return ip_address(address).version == (6 if match["v6"] else 4)
    except ValueError:
        return False


def is_address(value: str) -> bool:
    """Return whether a server can listen on `value`: a name or an IP address, without a port."""
    return is_host(f"[{value}]" if ":" in value else value)
