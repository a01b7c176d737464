"""A job as a message: to the table of jobs, and from the table to a process that runs it."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.core.database import WriteSession, database
from app.core.jobs.statements import ADD


@dataclass(frozen=True, eq=False)
class Message:
    """An accepted job, or one delivery of it.

    Attributes:
        arguments: a JSON object.
        delay_s: the time from now until the job may run.
        attempts: the number of failed runs.
        deliveries: the number of claims since the last outcome, with this one.
        age_s: the time since the job was enqueued.
    """

    id: UUID
    name: str
    version: int
    arguments: str
    request_id: str
    key: str | None = None
    delay_s: float = 0.0
    attempts: int = 0
    deliveries: int = 0
    age_s: float = 0.0

    def row(self, state: str = "waiting", error: str | None = None) -> dict[str, Any]:
        """Return the values for `statements.ADD`: the age of a new row is 0."""
        fields = {name: value for name, value in vars(self).items() if name != "age_s"}
        return {**fields, "state": state, "error": error}


async def store(session: WriteSession | None, message: Message) -> None:
    """Insert the job in the transaction of the session, or in one of its own.

    Nothing is inserted if a job of the same name has the same key.
    """
    if session is None:
        await database.fetch(ADD, message.row())
    else:
        await session.write(ADD, **message.row())
