"""Clean up after SIGTERM and SIGHUP: both end the program as Ctrl-C does."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # A second signal (of a closing terminal, or of a supervisor) must not interrupt the clean-up.
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    # Not SystemExit: pytest would count that as one failed test and carry on.
    raise KeyboardInterrupt


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM and SIGHUP. For the main thread only (else ValueError)."""
    previous = {signum: signal.getsignal(signum) for signum in _SIGNALS}
    for signum, handler in previous.items():
        if handler is not signal.SIG_IGN:  # `nohup` asks for exactly that
            signal.signal(signum, _interrupt)
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
