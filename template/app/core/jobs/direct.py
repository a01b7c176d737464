"""Jobs without an outbox: the broker gets the job after the commit, and the worker stores it.

A job is lost if the web process or the broker ends before a worker has stored it.
"""

import asyncio
from dataclasses import replace
from functools import partial
from logging import getLogger

from pydantic import TypeAdapter, ValidationError

from app.core.database import WriteSession
from app.core.http.problems import Busy, Unavailable
from app.core.jobs import statements
from app.core.jobs.execution import executor
from app.core.jobs.message import Message, store
from app.core.jobs.relay import Reference, bury, execute, relay

logger = getLogger(__name__)

# Retries, and jobs that a killed worker left behind, come from the table.
MESSAGE: TypeAdapter[Message | Reference] = TypeAdapter(Message | Reference)


async def accept(session: WriteSession | None, message: Message) -> None:
    """Send the job to the broker, after the commit of the session if there is one.

    Raises:
        Busy: when the broker is unreachable, so that the request fails before its commit.
    """
    if session is None:
        await relay.publish([MESSAGE.dump_json(message).decode()])
    elif relay.state == "ok":
        session.after_commit(partial(_send, message))
    else:
        raise Busy("The broker of background jobs cannot be reached.")


async def _send(message: Message) -> None:
    """Send the job of a write that is committed, or store it, so that the relay sends it later."""
    try:
        await relay.publish([MESSAGE.dump_json(message).decode()])
    except Unavailable as error:
        logger.warning("job %s waits in the table: %s", message.name, error.detail)
        await store(None, _with_key(message))


def _with_key(message: Message) -> Message:
    """Return the message with a key, so that it is stored once if it is delivered twice."""
    return replace(message, key=message.key or str(message.id))


async def receive(text: str) -> None:
    """Store and run the job of a message; a text that is no message becomes a dead letter."""
    try:
        message = MESSAGE.validate_json(text)
    except ValidationError as error:
        await bury(text, error)
        return
    if isinstance(message, Reference):
        await execute(message)
        return
    try:
        await executor.insist(statements.ADD, **_with_key(message).row())
    except asyncio.CancelledError:
        await relay.publish([text])
        raise
    except Exception as error:
        # The database cannot store one of its values.
        await bury(text, error)
        return
    if not message.delay_s:
        await execute(Reference(message.id, attempts=0, deliveries=0))
