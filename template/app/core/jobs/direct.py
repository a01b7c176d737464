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
from app.core.jobs.execution import RETRY_S, executor
from app.core.jobs.message import Message
from app.core.jobs.relay import Reference, bury, execute_id, relay

logger = getLogger(__name__)

# Retries, and jobs that a killed worker left behind, come from the table.
MESSAGE: TypeAdapter[Message | Reference] = TypeAdapter(Message | Reference)


async def accept(session: WriteSession | None, message: Message) -> None:
    """Send the job to the broker, after the commit of the session if there is one.

    Raises:
        Busy: when the broker is unreachable, so that the request fails before its commit.
    """
    send = partial(relay.publish, [MESSAGE.dump_json(message).decode()])
    if session is None:
        await send()
    elif relay.state == "ok":
        session.after_commit(send)
    else:
        raise Busy("The broker of background jobs cannot be reached.")


async def receive(text: str) -> None:
    """Store and run the job of a message; a text that is no message becomes a dead letter."""
    try:
        message = MESSAGE.validate_json(text)
    except ValidationError as error:
        await bury(text, error)
        return
    if isinstance(message, Reference):
        await execute_id(message.id, message.attempts, message.deliveries)
        return
    try:
        await _store(message)
    except asyncio.CancelledError:
        await relay.publish([text])
        raise
    except Exception as error:
        # The database cannot store one of its values.
        await bury(text, error)
        return
    if not message.delay_s:
        await execute_id(message.id, 0, 0)


async def _store(message: Message) -> None:
    """Insert the job; a message that is delivered twice finds its key."""
    values = replace(message, key=message.key or str(message.id)).row()
    while True:
        try:
            await executor.fetch(statements.ADD, **values)
            return
        except Unavailable as error:
            logger.warning("A job waits for the database: %s", error)
        await asyncio.sleep(RETRY_S)
