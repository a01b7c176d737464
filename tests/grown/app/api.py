"""The routers of your domains, in one place."""

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

from app.orders.router import router as orders

router = APIRouter()
router.include_router(orders)
# An application without FastAPI.
router.mount("/mounted", PlainTextResponse("mounted"))
