"""The routers of your domains, in one place."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from app.orders.router import router as orders
from app.orders.streams import router as order_streams

router = APIRouter()
router.include_router(orders)
router.include_router(order_streams)
# An application without FastAPI.
router.mount("/mounted", PlainTextResponse("mounted"))
