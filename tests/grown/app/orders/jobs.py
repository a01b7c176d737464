"""The jobs of orders."""

from datetime import timedelta
from logging import getLogger

from sqlalchemy import func, select, update

from app.core.database import ReadSession, WriteSession
from app.core.jobs import every, job
from app.orders.models import Order

logger = getLogger(__name__)


@job(retries=3, deadline_s=30)
async def send_receipt(order_id: int) -> None:
    """Send the receipt of an order; a second run sends none."""
    async with WriteSession() as session:
        item = await session.returning(
            update(Order)
            .where(Order.id == order_id, Order.receipt_at.is_(None))
            .values(receipt_at=func.now())
            .returning(Order.item)
        )
        if item is not None:
            # Call a mail provider here, with the id of the order as the idempotency key.
            logger.info("The receipt of %r", item)


@every(timedelta(hours=1))
@job
async def count_receipts() -> None:
    count = await ReadSession().scalar(select(func.count(Order.receipt_at)))
    logger.info("%d receipts", count)
