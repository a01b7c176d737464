"""Background jobs of users."""

from logging import getLogger
from uuid import UUID

from sqlalchemy import func, select, update

from app.core.database import ReadSession, WriteSession
from app.core.jobs import job
from app.users.models import User

logger = getLogger(__name__)


@job
async def send_welcome(user_id: UUID) -> None:
    """Welcome a user, unless a run before has marked it as done."""
    unwelcomed = select(User.name).where(User.id == user_id, User.welcomed_at.is_(None))
    name = await ReadSession().scalar(unwelcomed)
    if name is None:
        return
    # Call a mail provider here, outside of a transaction, which would hold a connection meanwhile.
    # If the process dies before the mark, the next run calls again: with the user's id as the
    # idempotency key, the provider sends one message.
    logger.info("Welcome, %r!", name)
    async with WriteSession() as session:
        welcomed = update(User).where(User.id == user_id).values(welcomed_at=func.now())
        await session.execute(welcomed)
