"""A process of the pool: reads calls from a socket, its standard input, and answers there.

It runs as a script, and imports only the modules of the functions that it runs. It ends with its
parent, even if the parent is killed.
"""

import faulthandler
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import traceback
from typing import Any

# A call: its time limit in seconds, and the size of the pickled function with its arguments.
CALL = struct.Struct("!dQ")
# An answer: whether the function returned, and the size of the pickled result or error.
ANSWER = struct.Struct("!?Q")
# The parent kills a late process; after this time more, a timer ends one without a parent.
GRACE_S = 1


def main() -> None:
    sys.path[:] = sys.argv[1:]
    # A crash in a C library shows its stack in the log.
    faulthandler.enable()
    # A supervisor may send SIGTERM to all processes of the service, while requests still need this
    # one. Not SIG_IGN, which a program that a function starts would inherit.
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    connection = socket.socket(fileno=os.dup(0))
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=end_with_parent, args=[connection], daemon=True).start()
    with connection.makefile("rb") as calls:
        while head := calls.read(CALL.size):
            limit_s, size = CALL.unpack(head)
            returned, answer = run(calls.read(size), limit_s)
            connection.sendall(ANSWER.pack(returned, len(answer)) + answer)


def end_with_parent(connection: socket.socket) -> None:
    poll = select.poll()
    # `poll` reports the end of the other side although no event is registered.
    poll.register(connection, 0)
    poll.poll()
    os._exit(0)


def run(call: bytes, limit_s: float) -> tuple[bool, bytes]:
    """Run a call, and return whether the function returned, and its pickled result or error."""
    signal.setitimer(signal.ITIMER_REAL, limit_s + GRACE_S)
    try:
        function, arguments = pickle.loads(call)  # noqa: S301 - from the parent
        return True, pickle.dumps(function(*arguments), pickle.HIGHEST_PROTOCOL)
    except BaseException as error:
        return False, pickle.dumps((portable(error), traceback.format_exc()))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def portable(error: BaseException) -> Any:
    """Return the error if the parent can unpickle and survive it, or a RuntimeError like it."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 - from this process
        if isinstance(error, Exception):
            return error
    except Exception:  # noqa: S110 - any error of a class of the team
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
