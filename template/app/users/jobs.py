"""Background jobs of users."""

from logging import getLogger
from uuid import UUID

from sqlalchemy import func, update

from app.core.database import WriteSession
from app.core.jobs import job
from app.users.models import User

logger = getLogger(__name__)


@job
async def send_welcome(user_id: UUID) -> None:
    """Welcome a user; a job that runs twice still sends one message."""
    async with WriteSession() as session:
        name = await session.returning(
            update(User)
            .where(User.id == user_id, User.welcomed_at.is_(None))
            .values(welcomed_at=func.now())
            .returning(User.name)
        )
        if name is not None:
            # Call a mail provider here, with the user's id as the idempotency key.
            logger.info("Welcome, %r!", name)
