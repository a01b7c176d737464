"""The jobs of the README run: one that a commit enqueues, and one at intervals."""

import re

import pytest
from httpx2 import AsyncClient

from app.core.database import WriteSession
from app.core.jobs import enqueue
from app.orders.jobs import count_receipts, send_receipt
from app.orders.models import Order
from tests.core.jobs import Jobs
from tests.core.serving import ROOT


def test_the_readme_shows_this_code() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)

    assert (ROOT / "app" / "orders" / "jobs.py").read_text() in blocks


async def test_a_job_runs_after_the_commit_and_once(
    database: None, running_jobs: Jobs, caplog: pytest.LogCaptureFixture
) -> None:
    async with WriteSession() as session:
        order = Order(item="tea")
        session.add(order)
        await session.flush()
        await enqueue(session, send_receipt, order.id)

    await running_jobs.done()
    await send_receipt(order.id)
    assert caplog.text.count("The receipt of 'tea'") == 1


async def test_a_job_at_intervals(client: AsyncClient, caplog: pytest.LogCaptureFixture) -> None:
    await client.post("/orders", json={"item": "tea"})

    await count_receipts()

    assert "0 receipts" in caplog.text
