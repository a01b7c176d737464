"""The routers of your domains, in one place."""

from fastapi import APIRouter

from app.orders.router import router as orders

router = APIRouter()
router.include_router(orders)
