"""Orders: pages, a stream without an end, a WebSocket, and routes that need a token."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, WebSocket
from fastapi.responses import RedirectResponse, StreamingResponse
from fastapi.security import HTTPBearer
from sqlalchemy import select

from app.core.cache import no_store, public
from app.core.database import ReadSessionDep, WriteSessionDep
from app.core.http.problems import NotFound
from app.core.pagination import Page, PageParams, paginate
from app.orders.models import Order
from app.orders.schemas import OrderCreate, OrderRead

router = APIRouter(prefix="/orders", tags=["orders"])
protected = APIRouter(prefix="/protected", dependencies=[Depends(HTTPBearer())])


@router.post("", status_code=201)
async def create(order: OrderCreate, session: WriteSessionDep) -> OrderRead:
    row = Order(item=order.item)
    session.add(row)
    await session.flush()
    return OrderRead.model_validate(row)


@router.get("")
@no_store
async def page(session: ReadSessionDep, params: Annotated[PageParams, Query()]) -> Page[OrderRead]:
    return await paginate(
        session, select(Order), params, order_by=[Order.id], convert=OrderRead.model_validate
    )


@router.get("/stream")
@no_store
async def stream() -> StreamingResponse:
    async def ticks() -> AsyncIterator[bytes]:
        while True:
            yield b"data: tick\n\n"
            await asyncio.sleep(3600)

    return StreamingResponse(ticks(), media_type="text/event-stream")


@router.get("/newest", status_code=307)
@no_store
async def newest() -> RedirectResponse:
    return RedirectResponse("https://example.com/orders/1")


@router.get("/{order_id}")
@public(ttl_s=60, tags=("order:{order_id}",))
async def read(order_id: int, session: ReadSessionDep) -> OrderRead:
    row = await session.scalar(select(Order).where(Order.id == order_id))
    if row is None:
        raise NotFound("There is no such order.")
    return OrderRead.model_validate(row)


@router.websocket("/live")
async def live(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("hello")
    await socket.close()


@router.api_route("/webhook", methods=["GET", "POST"])
@no_store
async def webhook(request: Request) -> Response:
    return Response(await request.body())


@protected.post("", status_code=201)
async def create_protected(order: OrderCreate, session: WriteSessionDep) -> OrderRead:
    return await create(order, session)


@protected.get("/{order_id}")
@no_store
async def read_protected(order_id: int, session: ReadSessionDep) -> OrderRead:
    return await read(order_id, session)


router.include_router(protected)
