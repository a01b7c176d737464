"""The outcome of one delivery of a job: success, a later retry, a dead letter, or a release."""

import asyncio
from dataclasses import dataclass
from traceback import format_exception
from typing import Any

from app.core.http.problems import Unavailable
from app.core.jobs.declaration import BadArguments, Job, declared
from app.core.jobs.message import Message
from app.core.jobs.statements import MAX_DELIVERIES

MAX_BACKOFF_S = 600.0
# A job whose dependency is unavailable waits for a tenth of its age, and at most this time.
MAX_WAIT_S = 60.0
# An older release may meet a newer job during a deploy: these retries take about 17 minutes.
UNKNOWN_RETRIES = 10
MAX_ERROR_CHARS = 16_000


class Unknown(Exception):
    """This release does not know the job, or this version of it."""


class Lost(Exception):
    """Earlier deliveries had no outcome."""


@dataclass(frozen=True)
class Outcome:
    """The result of a delivery: `succeeded`, `retried`, `failed` (a dead letter) or `released`."""

    label: str
    attempts: int
    deliveries: int = 0
    delay_s: float = 0.0
    error: str | None = None

    @property
    def state(self) -> str:
        return {"succeeded": "done", "failed": "dead"}.get(self.label, "waiting")


def outcome_of(
    message: Message, error: BaseException | None, *, stops: bool, jitter: float = 1.0
) -> Outcome:
    """Return the outcome of a run that ended with `error`; `stops`: the process stops its jobs."""
    attempts, earlier = message.attempts, message.deliveries - 1
    if error is None:
        return Outcome("succeeded", attempts)
    if stops and isinstance(error, asyncio.CancelledError):
        return Outcome("released", attempts, earlier)
    text = "".join(format_exception(error))[-MAX_ERROR_CHARS:]
    # PostgreSQL stores neither NUL nor a part of a character.
    text = text.replace("\0", r"\x00").encode(errors="backslashreplace").decode()
    if isinstance(error, Unavailable):
        delay_s = min(max(message.age_s / 10, 1.0), MAX_WAIT_S)
        return Outcome("retried", attempts, earlier, delay_s * jitter, text)
    job = declared.get(message.name)
    retries = UNKNOWN_RETRIES if job is None or isinstance(error, Unknown) else job.retries
    if isinstance(error, (BadArguments, Lost)) or attempts >= retries:
        return Outcome("failed", attempts + 1, error=text)
    delay_s = min(2.0 ** min(attempts, 20), MAX_BACKOFF_S)
    return Outcome("retried", attempts + 1, delay_s=delay_s * jitter, error=text)


def find(message: Message) -> tuple[Job[Any], dict[str, Any]]:
    """Return the job with its arguments, or raise the reason for which it cannot run."""
    if message.deliveries > MAX_DELIVERIES:
        raise Lost(
            f"The job was delivered {MAX_DELIVERIES} times without an outcome: its process ended, "
            "or its event loop was blocked."
        )
    job = declared.get(message.name)
    if job is None or job.version < message.version:
        known = f"version {job.version}" if job else "no job of this name"
        raise Unknown(f"This release has {known}, and the job has version {message.version}.")
    return job, job.load(message.arguments)
