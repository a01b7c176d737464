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
    """Send the receipt of an order, unless a run before has marked it as sent."""
    unsent = select(Order.item).where(Order.id == order_id, Order.receipt_at.is_(None))
    item = await ReadSession().scalar(unsent)
    if item is None:
        return
    # Call a mail provider here, outside of a transaction, which would hold a connection meanwhile.
    # If the process dies before the mark, the next run calls again: with the id of the order as the
    # idempotency key, the provider sends one message.
    logger.info("The receipt of %r", item)
    async with WriteSession() as session:
        sent = update(Order).where(Order.id == order_id).values(receipt_at=func.now())
        await session.execute(sent)


@every(timedelta(hours=1))
@job
async def count_receipts() -> None:
    count = await ReadSession().scalar(select(func.count(Order.receipt_at)))
    logger.info("%d receipts", count)
