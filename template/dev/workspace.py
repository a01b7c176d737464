"""A temporary directory for servers, owned by a process: it is removed after that process ends.

The owner holds a lock on the directory. The kernel drops the lock when the owner dies, however it
dies, so the next start tells a killed run from a live one and removes what the killed run left.
"""

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType

from dev.processes import ServerUnavailable, stop_recorded

_PREFIX = "run-"
# PostgreSQL refuses to run as root; the account that runs it then must get to its data.
_MODE = 0o711 if os.geteuid() == 0 else 0o700


@contextmanager
def workspace() -> Iterator[Path]:
    """Make a new directory; on exit, stop its processes and remove it.

    Remains of dead runs are removed first.
    """
    with ExitStack() as owner:
        with locked_root() as root:
            for remains in root.glob(f"{_PREFIX}*"):
                # OSError: the owner still runs (BlockingIOError), or the directory cannot be
                # removed; neither may stop this run.
                with suppress(OSError), _locked(remains, wait=False):
                    _remove(remains)
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=root))
            path.chmod(_MODE)
            owner.enter_context(_locked(path))
        try:
            yield path
        finally:
            # Under the lock of the root, so that no other run removes the directory as well.
            with locked_root():
                _remove(path)


def _remove(path: Path) -> None:
    stop_recorded(path)
    shutil.rmtree(path)


@contextmanager
def locked_root() -> Iterator[Path]:
    """Lock the directory of all workspaces of this user, and yield it."""
    root = Path(tempfile.gettempdir()).absolute() / f"devservers-{os.geteuid()}"
    with ExitStack() as stack:
        try:
            root.mkdir(mode=0o700, exist_ok=True)
            lock = stack.enter_context(_locked(root))
        except OSError as error:  # a symlink or no directory, made by somebody else
            raise ServerUnavailable(
                f"{root} is unusable, remove it or set TMPDIR: {error}"
            ) from error
        # Any user may write to the directory for temporary files.
        if os.fstat(lock).st_uid != os.geteuid():
            raise ServerUnavailable(f"{root} belongs to another user: remove it or set TMPDIR")
        os.fchmod(lock, _MODE)
        yield root


@contextmanager
def _locked(directory: Path, *, wait: bool = True) -> Iterator[int]:
    """Lock a directory; yields its file descriptor."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP, so that they clean up as Ctrl-C does.

    For the main thread only (else ValueError).
    """
    previous = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}

    def interrupt(_signum: int, _frame: FrameType | None) -> None:
        # A second signal (of a closing terminal, or of a supervisor) must not interrupt the
        # clean-up.
        for signum in previous:
            signal.signal(signum, signal.SIG_IGN)
        # Not SystemExit: pytest would count that as one failed test and carry on.
        raise KeyboardInterrupt

    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:  # `nohup` asks for exactly that
            signal.signal(signum, interrupt)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
