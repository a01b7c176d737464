"""A temporary directory for servers, owned by a process: it is removed after that process ends.

The owner holds a lock on the directory. The kernel drops it when the owner dies, however it dies,
so a killed run is told from a live one without guessing; its remains go at the next start.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dev.processes import ServerUnavailable, stop_recorded

_PREFIX = "run-"


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a new directory; on exit, stop its processes and remove it.

    Remains of dead runs are removed first.
    """
    with locked_root() as root:
        _reap(root)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
        path.chmod(_mode())
        owner = _lock(path)
    try:
        yield path
    finally:
        # Under the lock of the root, so that no other run removes the directory as well.
        with locked_root():
            _remove(path)
            os.close(owner)


def reap_orphans() -> None:
    """Stop the servers and remove the directories of runs that died without doing so."""
    with locked_root() as root:
        _reap(root)


def _reap(root: Path) -> None:
    for path in root.glob(f"{_PREFIX}*"):
        # OSError: the owner still runs (BlockingIOError), or the directory cannot be removed;
        # neither may stop this run.
        with suppress(OSError):
            owner = _lock(path, wait=False)
            try:
                _remove(path)
            finally:
                os.close(owner)


def _remove(path: Path) -> None:
    stop_recorded(path)
    shutil.rmtree(path)


@contextmanager
def locked_root() -> Iterator[Path]:
    """Lock the directory of all workspaces of this user, and yield it."""
    root = Path(tempfile.gettempdir()).absolute() / f"devservers-{os.geteuid()}"
    with suppress(FileExistsError):
        root.mkdir(mode=0o700)
    try:
        lock = _lock(root)
    except OSError as error:  # a symlink or no directory, made by somebody else
        raise ServerUnavailable(f"{root} is unusable, remove it or set TMPDIR: {error}") from error
    try:
        # Any user may write to the directory for temporary files.
        if os.fstat(lock).st_uid != os.geteuid():
            raise ServerUnavailable(f"{root} belongs to another user: remove it or set TMPDIR")
        os.fchmod(lock, _mode())
        yield root
    finally:
        os.close(lock)


def _lock(directory: Path, *, wait: bool = True) -> int:
    """Lock a directory, until the file descriptor that this returns is closed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _mode() -> int:
    # PostgreSQL refuses to run as root; the account that runs it then must get to its data.
    return 0o711 if os.geteuid() == 0 else 0o700
