"""The duration of each call to another service, by host and status."""

from collections.abc import Callable
from time import perf_counter

from prometheus_client import Histogram

from app.core.http_client.client import Call

# The limit on hosts with series of their own; all further hosts count as `other`.
MAX_HOST_SERIES = 30
DURATION = Histogram(
    "http_client_request_duration_seconds",
    "Time of a call to another service, each retry by itself; status 0 without a response.",
    ["host", "status"],
    buckets=(0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 10),
)
_hosts: set[str] = set()


def measure(call: Call) -> Callable[[], None]:
    """Observe the attempt at its end; hosts that clients name are `public`."""
    began_s = perf_counter()
    host = "public" if call.is_public else call.url.host or ""
    if len(_hosts) < MAX_HOST_SERIES:
        _hosts.add(host)
    name = host if host in _hosts else "other"
    return lambda: DURATION.labels(name, call.status).observe(perf_counter() - began_s)
