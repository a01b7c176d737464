"""Jobs without an outbox: the broker gets the job after the commit, and the worker stores it.

A job is lost if the web process or the broker ends before a worker has stored it.
"""

import asyncio
from dataclasses import replace
from functools import partial

from pydantic import TypeAdapter, ValidationError

from app.core.database import WriteSession
from app.core.http.problems import Busy
from app.core.jobs import statements
from app.core.jobs.execution import executor
from app.core.jobs.message import Message
from app.core.jobs.relay import Reference, bury, execute, relay

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
        await execute(message)
        return
    # A message that is delivered twice finds its key.
    stored = replace(message, key=message.key or str(message.id))
    try:
        await executor.insist(statements.ADD, **stored.row())
    except asyncio.CancelledError:
        await relay.publish([text])
        raise
    except Exception as error:
        # The database cannot store one of its values.
        await bury(text, error)
        return
    if not message.delay_s:
        await execute(Reference(message.id, attempts=0, deliveries=0))
