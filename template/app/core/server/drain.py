"""Whether this instance stops. gunicorn's master sets the flag, and its workers share it."""

import mmap
import os
import signal
from types import FrameType
from typing import Any

# Workers inherit the mapping, so a write in the master is seen by all of them.
_flag = mmap.mmap(-1, 1)


def stopping() -> bool:
    """Return whether this instance stops: it is not ready, and responses close connections."""
    return _flag[0] != 0


def announce(stops: bool = True) -> None:
    """Set the flag in all processes of this instance."""
    _flag[0] = stops


def delay_stop(arbiter: Any, delay_s: float) -> None:
    """Let gunicorn stop `delay_s` seconds after SIGTERM, or at the second one.

    Until then the workers accept requests while the load balancer finds them not ready.
    """

    def terminate(frame: FrameType | None) -> None:
        # After SIGUSR2 another master has the same sockets, and stays ready.
        if delay_s and not stopping() and not arbiter.reexec_pid:
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            arbiter.log.info("Stops in %g s; readiness fails from now on", delay_s)
        else:
            arbiter.signal(signal.SIGTERM, frame)
        announce(not arbiter.reexec_pid)

    def handle(number: int, frame: FrameType | None) -> None:
        # A worker has the handlers of the master until it starts. It serves nothing by then, and
        # gunicorn sends the signal once: it would wait for the worker in vain.
        if os.getpid() != arbiter.pid:
            os._exit(0)
        if number == signal.SIGTERM:
            terminate(frame)
        else:
            arbiter.signal(number, frame)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, handle)
    signal.signal(signal.SIGALRM, lambda _, frame: arbiter.signal(signal.SIGTERM, frame))
