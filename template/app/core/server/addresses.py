"""The addresses to listen on: a port of an interface, or a UNIX socket."""

import os
import sys
from contextlib import closing, suppress
from pathlib import Path
from socket import AF_INET, AF_INET6, AF_UNIX, create_server, socket

_UNIX = "unix:"
# On macOS; Linux allows four more.
MAX_SOCKET_PATH = 103


def bind(host: str, port: int) -> str:
    """Return the address in gunicorn's form."""
    if host.startswith(_UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def require_address(host: str, variable: str = "HOST") -> None:
    """Stop the process if this machine does not have the address."""
    sentence = f"{variable}: cannot listen on {host!r}"
    if host.startswith(_UNIX):
        path = Path(host.removeprefix(_UNIX))
        if not path.is_absolute() or not path.parent.is_dir():
            sys.exit(f"{sentence}: expected an absolute path in a directory that exists")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            sys.exit(f"{sentence}: the path has more than {MAX_SOCKET_PATH} bytes")
        if path.exists() and not path.is_socket():
            sys.exit(f"{sentence}: the file exists and is no socket")
        return
    try:
        # With any port: another process may use the port of the settings, even this service.
        create_server((host, 0), family=_family(host)).close()
    except (OSError, UnicodeError) as error:
        sys.exit(f"{sentence}: {error}")


def require_free(variable: str, host: str, port: int) -> None:
    """Stop the process if another one has the port; gunicorn tries five times, and names none."""
    if host.startswith(_UNIX):
        # gunicorn removes a socket, even if another process listens on it.
        with closing(socket(AF_UNIX)) as client, suppress(OSError):
            client.connect(host.removeprefix(_UNIX))
            sys.exit(f"HOST: another process listens on {host}")
        return
    try:
        create_server((host, port), family=_family(host)).close()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        sys.exit(f"{variable}: cannot listen on port {port} of {host}: {reason}")


def _family(host: str) -> int:
    return AF_INET6 if ":" in host else AF_INET
