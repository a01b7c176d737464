"""Gives each order of the first days its group; run once."""

import asyncio

from sqlalchemy import update

from app.core.database import WriteSession
from app.orders.models import Order


async def main() -> None:
    async with WriteSession() as session:
        await session.execute(update(Order).values(group_id=None))


if __name__ == "__main__":
    asyncio.run(main())
