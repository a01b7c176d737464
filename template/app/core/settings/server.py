"""Settings of the server: addresses, proxies, time-outs and the stop."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_settings import BaseSettings

# In TRUSTED_PROXIES: every peer on a UNIX socket.
UNIX = "unix"
# By version of IP: the largest private networks.
_MIN_PREFIX = {4: 8, 6: 7}


def check_proxy(text: str) -> str:
    """Return a network as `10.0.0.0/8`, an address, or `unix`; raise ValueError otherwise."""
    if text == UNIX:
        return text
    network = ip_network(text)
    if network.prefixlen < _MIN_PREFIX[network.version]:
        raise ValueError(f"{text} trusts too many clients; the largest are 10.0.0.0/8 and fc00::/7")
    return str(network)


def _is_no_socket(host: str) -> str:
    if host.startswith("unix:"):
        raise ValueError("expected an address, such as 127.0.0.1: only HOST may be a socket")
    return host


class ServingSettings(BaseSettings):
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; `0.0.0.0` in a container, `unix:/run/app.sock`.",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    admin_host: Annotated[str, AfterValidator(_is_no_socket)] = Field(
        "127.0.0.1",
        description="Address of the admin port; in a container `0.0.0.0`, in a private network.",
    )
    admin_port: int = Field(
        9464, ge=0, le=65535, description="Port of the pages for operators; 0 for none."
    )
    trusted_proxies: tuple[Annotated[str, AfterValidator(check_proxy)], ...] = Field(
        (), description="Networks whose `X-Forwarded-For` and `-Proto` are true: `10.0.0.0/8,unix`."
    )
    drain_delay_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Time from SIGTERM, when readiness fails, until the service stops to listen.",
    )
    max_requests: int = Field(
        0, ge=0, description="Requests until a worker is replaced, up to half more; 0 never."
    )
    header_timeout_s: float = Field(
        20.0, gt=0, description="Longest time that a client may take to send the head of a request."
    )
    body_timeout_s: float = Field(
        20.0, gt=0, description="The same for a body, plus a second for each KiB; then it is 408."
    )
