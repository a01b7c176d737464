"""The addresses to listen on: a port of an interface, or a UNIX socket."""

import sys
from contextlib import closing, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX, create_server, socket

from app.core.operations.settings import ServerSettings

_UNIX = "unix:"


def binds(settings: ServerSettings) -> list[str]:
    """Return the addresses in gunicorn's form."""
    return [_bind(settings.host, settings.port)]


def require_address(host: str) -> None:
    """Stop the process if this machine does not have the address."""
    if host.startswith(_UNIX):
        path = Path(host.removeprefix(_UNIX))
        if not path.is_absolute() or not path.parent.is_dir():
            sys.exit(f"HOST: cannot listen on {host!r}: expected a path in a directory that exists")
        if path.exists() and not path.is_socket():
            sys.exit(f"HOST: cannot listen on {host!r}: the file exists and is no socket")
        return
    try:
        # With any port: another process may have that of the settings, even this service.
        create_server((host, 0), family=_family(host)).close()
    except (OSError, UnicodeError) as error:
        sys.exit(f"HOST: cannot listen on {host!r}: {error}")


def require_free(settings: ServerSettings) -> None:
    """Stop the process if it may not listen; gunicorn tries five times, and names no variable."""
    require_address(settings.host)
    _require_free("PORT", settings.host, settings.port)


def _require_free(variable: str, host: str, port: int) -> None:
    if host.startswith(_UNIX):
        with closing(socket(AF_UNIX)) as client, suppress(OSError):
            # gunicorn removes a socket that its process has left behind.
            client.connect(host.removeprefix(_UNIX))
            sys.exit(f"HOST: another process listens on {host}")
        return
    try:
        create_server((host, port), family=_family(host)).close()
    except OSError as error:
        sys.exit(f"{variable}: cannot listen on port {port} of {host}: {error.strerror}")


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET


def _bind(host: str, port: int) -> str:
    if host.startswith(_UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
