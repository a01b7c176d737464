"""The orders that come in, as server-sent events and through a WebSocket."""

import asyncio
from collections.abc import AsyncIterator
from secrets import randbelow
from typing import Annotated

from fastapi import APIRouter, Header, WebSocket
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy import select

from app.core.cache import no_store
from app.core.database import ReadSession, ReadSessionDep
from app.core.http.streams import until_stop
from app.orders.models import Order
from app.orders.schemas import OrderRead

router = APIRouter(prefix="/order-events")


async def orders_after(session: ReadSession, last: int) -> AsyncIterator[OrderRead]:
    """Yield the orders with a larger id, and new ones; hold no connection between reads."""
    newer = select(Order).order_by(Order.id).limit(100)
    while True:
        for order in await session.scalars(newer.where(Order.id > last)):
            last = order.id
            yield OrderRead.model_validate(order)
        await asyncio.sleep(1)


@router.get("", response_class=EventSourceResponse)
@no_store
async def order_events(
    session: ReadSessionDep, last_event_id: Annotated[int, Header()] = 0
) -> AsyncIterator[ServerSentEvent]:
    # The clients of a worker that stops come back after 1 to 5 s, and not all together.
    yield ServerSentEvent(retry=1000 + randbelow(4000))
    async for order in until_stop(orders_after(session, last_event_id)):
        yield ServerSentEvent(data=order, id=str(order.id))


@router.websocket("")
async def order_socket(socket: WebSocket, session: ReadSessionDep, after: int = 0) -> None:
    await socket.accept()
    async for order in until_stop(orders_after(session, after), socket):
        await socket.send_text(order.model_dump_json())
