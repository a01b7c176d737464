"""The id of a request, by which its log lines, problem documents and jobs are found."""

import os
import re
from collections.abc import Iterable

from app.core.telemetry.activity import Activity
from app.core.telemetry.activity import current as current_activity

HEADER = b"x-request-id"
# New ids for this process: the system call for one takes as long as for all of them.
_new: list[str] = []
os.register_at_fork(after_in_child=_new.clear)
_is_well_formed = re.compile(rb"[A-Za-z0-9._-]{1,64}").fullmatch


def current() -> str:
    """Return the id of the current request, or of the request that enqueued the current job.

    It is empty elsewhere, and in a load of the cache: an id must not shape a shared response.
    """
    activity = current_activity.get()
    return "" if activity is None else activity.request_id


def begin(identifier: object) -> None:
    """Start the account of a job that the request with this id enqueued.

    Anything but a well-formed id counts as none.
    """
    if not isinstance(identifier, str) or not _is_well_formed(identifier.encode(errors="replace")):
        identifier = ""
    current_activity.set(Activity(identifier))


def of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the well-formed id of a single `X-Request-ID`, or a new id of 32 hex digits."""
    sent = [value.strip(b" \t") for name, value in headers if name == HEADER]
    if len(sent) == 1 and _is_well_formed(sent[0]):
        return sent[0].decode()
    if not _new:
        digits = os.urandom(16 * 64).hex()
        _new.extend(digits[start : start + 32] for start in range(0, len(digits), 32))
    return _new.pop()
