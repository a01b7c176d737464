"""Counts the jobs in the memory of a process, so that the next start logs how many a kill lost.

Each process maps and locks a file with its count in the temporary directory. A file without a lock
belongs to a process that was killed. If the directory is deleted with the process, as in a new
container, nothing is logged.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from mmap import mmap
from pathlib import Path
from tempfile import gettempdir, mkstemp
from zlib import crc32

_SIZE = 8


def default_directory() -> Path:
    """Return the directory of this service and user; OSError if there is no temporary directory."""
    service = crc32(str(Path(__file__)).encode())
    return Path(gettempdir(), f"jobs-{os.getuid()}-{service:x}")


class Count:
    """A number in a file, which outlives the process if it is not 0 at `close`.

    Raises:
        OSError: when the file cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        with _locked(directory):
            self._file, self._path = mkstemp(dir=directory)
            flock(self._file, LOCK_EX)
        os.truncate(self._file, _SIZE)
        self._map = mmap(self._file, _SIZE)
        self._value = 0

    def add(self, number: int) -> None:
        self._value += number
        self._map[:] = self._value.to_bytes(_SIZE, "big")

    def close(self) -> None:
        """Remove the file, unless jobs are left."""
        if not self._value:
            os.unlink(self._path)
        self._map.close()
        os.close(self._file)


def take_lost(directory: Path) -> int:
    """Return the number of jobs that killed processes had, and remove their files."""
    lost = 0
    with _locked(directory):
        for path in directory.iterdir():
            file = os.open(path, os.O_RDONLY)
            with suppress(BlockingIOError):
                flock(file, LOCK_EX | LOCK_NB)
                lost += int.from_bytes(os.read(file, _SIZE), "big")
                path.unlink()
            os.close(file)
    return lost


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    directory.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        flock(descriptor, LOCK_EX)
        yield
    finally:
        os.close(descriptor)
