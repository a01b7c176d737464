"""Settings of the server: addresses, proxies, limits on requests, time-outs and the stop."""

from ipaddress import ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings

from app.core.settings.numbers import Natural, Port, Positive, Seconds

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


class ServerSettings(BaseSettings):
    host: str = Field(
        "127.0.0.1",
        description="Address to listen on; `0.0.0.0` in a container, `unix:/run/app.sock`.",
    )
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on.")
    admin_host: Annotated[str, AfterValidator(_is_no_socket)] = Field(
        "127.0.0.1",
        description="Address of the admin port; in a container `0.0.0.0`, in a private network.",
    )
    admin_port: Port = Field(9464, description="Port of the pages for operators; 0 for none.")
    trusted_proxies: tuple[Annotated[str, AfterValidator(check_proxy)], ...] = Field(
        (), description="Networks whose `X-Forwarded-For` and `-Proto` are true: `10.0.0.0/8,unix`."
    )
    drain_delay_s: float = Field(
        5.0,
        ge=0,
        le=600,
        description="Time from SIGTERM, when readiness fails, until the service stops listening.",
    )
    compiled_handlers: bool = Field(
        True, description="Whether handlers are compiled at start-up; False runs FastAPI's own."
    )
    max_requests: Natural = Field(
        0, description="Requests, plus 0-50 %, after which a worker is replaced; 0 for no limit."
    )
    request_timeout_s: Seconds = Field(
        30.0, description="Longest time until a response begins, unless its route has a `deadline`."
    )
    max_queue_ms: int = Field(
        50,
        ge=0,
        le=60_000,
        description="Requests are refused while others wait longer for a connection or the event "
        "loop; 0 refuses none for it.",
    )
    max_in_flight: Natural = Field(
        0, description="Most requests of one worker at once; 0 allows 50 for each connection."
    )
    header_timeout_s: Seconds = Field(
        20.0, description="Longest time that a client may take to send the head of a request."
    )
    body_timeout_s: Seconds = Field(
        20.0, description="As long for a body, plus a second for each KiB, and to read a response."
    )
    max_body_bytes: int = Field(
        1024**2, ge=1024, description="Largest request body; a larger one is answered with 413."
    )
    max_json_values: Positive = Field(
        10_000, description="Most values in a JSON body; one with more is answered with 413."
    )

    @field_validator("admin_port")
    @classmethod
    def _differs(cls, value: int, info: ValidationInfo) -> int:
        is_socket = str(info.data.get("host")).startswith("unix:")
        if value == info.data.get("port") and not is_socket:
            raise ValueError("is the same as PORT, which is public; choose another one, or 0")
        return value
