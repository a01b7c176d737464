"""The outbox: a job is accepted in the transaction of its write, and the relay sends it later."""

from pydantic import ValidationError

from app.core.database import WriteSession
from app.core.jobs.message import Message, store
from app.core.jobs.relay import REFERENCE, bury, execute, relay


async def accept(session: WriteSession | None, message: Message) -> None:
    """Insert the job in the transaction of the session, or in one of its own."""
    await store(session, message)
    if session is None:
        await relay.wake()
    else:
        session.after_commit(relay.wake)


async def receive(text: str) -> None:
    """Run the job of a message of the broker; a text that is no message becomes a dead letter."""
    try:
        reference = REFERENCE.validate_json(text)
    except ValidationError as error:
        await bury(text, error)
        return
    await execute(reference)
