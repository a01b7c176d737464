"""A job on its way to the queue."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from app.core.database import WriteSession, database
from app.core.jobs.statements import ADD


@dataclass(frozen=True)
class Message:
    """An accepted job; `arguments` is a JSON object."""

    id: UUID
    name: str
    version: int
    arguments: str
    request_id: str
    key: str | None = None
    delay_s: float = 0.0

    def row(self) -> dict[str, Any]:
        """Return the values for `statements.ADD`."""
        return {**asdict(self), "attempts": 0, "state": "waiting", "error": None}


async def store(session: WriteSession | None, message: Message) -> None:
    """Insert the job in the transaction of the session, or in one of its own.

    Nothing is inserted if a job of the same name has the same key.
    """
    if session is None:
        await database.fetch(ADD, message.row())
    else:
        await session.write(ADD, **message.row())
