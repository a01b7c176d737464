"""A job on its way to the queue."""

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID


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
