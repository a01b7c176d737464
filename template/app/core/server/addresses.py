"""The addresses to listen on: a port of an interface, or a UNIX socket."""

import os
import sys
from contextlib import closing, suppress
from errno import EACCES, EADDRINUSE
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


def require_address(host: str, port: int = 0, *, prefix: str = "") -> None:
    """Stop the process if it cannot listen there; a port of 0 stands for any.

    gunicorn tries five times, and does not say which address it is. `prefix` starts the names of
    the variables: `ADMIN_`.
    """
    reason = f"{prefix}HOST: cannot listen on {host!r}"
    if host.startswith(_UNIX):
        path = Path(host.removeprefix(_UNIX))
        if not path.is_absolute() or not path.parent.is_dir():
            sys.exit(f"{reason}: expected an absolute path in a directory that exists")
        if len(os.fsencode(path)) > MAX_SOCKET_PATH:
            sys.exit(f"{reason}: the path has more than {MAX_SOCKET_PATH} bytes")
        if path.exists() and not path.is_socket():
            sys.exit(f"{reason}: the file exists and is no socket")
        if port:
            # gunicorn removes a socket, even if another process listens on it.
            with closing(socket(AF_UNIX)) as client, suppress(OSError):
                client.connect(str(path))
                sys.exit(f"HOST: another process listens on {host}")
        return
    try:
        create_server((host, port), family=AF_INET6 if ":" in host else AF_INET).close()
    except (OSError, UnicodeError) as error:
        if isinstance(error, OSError) and error.errno in (EACCES, EADDRINUSE):
            reason = f"{prefix}PORT: cannot listen on port {port} of {host}"
            sys.exit(f"{reason}: {os.strerror(error.errno)}")
        sys.exit(f"{reason}: {error}")
