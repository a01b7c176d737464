"""Whether this instance stops. gunicorn's master sets the flags, and its workers share them."""

import mmap
import os
import signal
import socket
import struct
import sys
from array import array
from contextlib import suppress
from types import FrameType
from typing import Any

# Workers inherit the mapping, so a write in the master is seen by all of them.
_flags = mmap.mmap(-1, 2)
# From Linux's asm-generic/socket.h; Python has no name for it.
_SO_ATTACH_FILTER = 26
# A classic BPF program, which sees the TCP header: it drops segments with the flag SYN.
_DROP_SYN = (
    (0x30, 0, 0, 13),  # load the byte of the flags
    (0x45, 0, 1, 2),  # without SYN, skip the next instruction
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0xFFFFFFFF),  # keep
)


def stopping() -> bool:
    """Return whether this instance stops: it is not ready, and responses close connections."""
    return _flags[0] != 0


def announce(stops: bool = True, *, ends_sockets: bool = False) -> None:
    """Set the flags in all processes of this instance.

    `ends_sockets` says that nothing else has the sockets: neither another master nor systemd.
    """
    _flags[0], _flags[1] = stops, ends_sockets


def drop_handshakes(listener: socket.socket) -> None:
    """Let no connection begin at a TCP socket that closes soon; those that have begun go on.

    When a socket closes, the kernel resets the connections that wait in it, also those that came
    after the last `accept`. A client whose SYN is dropped sends it again after a second, and is
    refused. Only Linux has such a filter.
    """
    if sys.platform == "linux" and listener.family != socket.AF_UNIX and _flags[1]:
        code = array("B", b"".join(struct.pack("HBBI", *each) for each in _DROP_SYN))
        program = struct.pack("HP", len(_DROP_SYN), code.buffer_info()[0])
        # A sandbox may have no filters.
        with suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def delay_stop(arbiter: Any, delay_s: float) -> None:
    """Let gunicorn stop `delay_s` seconds after SIGTERM, or at the second one.

    Until then the workers accept requests while the load balancer finds them not ready.
    """

    def stop(frame: FrameType | None) -> None:
        is_last = not (arbiter.reexec_pid or arbiter.master_pid or arbiter.systemd)
        announce(not arbiter.reexec_pid, ends_sockets=is_last)
        arbiter.signal(signal.SIGTERM, frame)

    def terminate(frame: FrameType | None) -> None:
        # After SIGUSR2 another master has the same sockets, and stays ready.
        if delay_s and not stopping() and not arbiter.reexec_pid:
            # A worker that is replaced during the delay leaves the sockets to the others.
            announce()
            signal.setitimer(signal.ITIMER_REAL, delay_s)
            arbiter.log.info("Stops in %g s; readiness fails from now on", delay_s)
        else:
            stop(frame)

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
    signal.signal(signal.SIGALRM, lambda _, frame: stop(frame))
