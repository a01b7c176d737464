"""The dependencies of the README are called once: for the process, or for the request."""

import re
from typing import Annotated

from fastapi import Depends, FastAPI
from httpx2 import AsyncClient

from app.orders.dependencies import OrderDep, SettingsDep
from app.settings import get_settings
from tests.core.budget import QueryBudget
from tests.core.serving import ROOT


def test_the_readme_shows_this_code() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)

    assert (ROOT / "app" / "orders" / "dependencies.py").read_text() in blocks


async def item_of(order: OrderDep, settings: SettingsDep) -> str:
    return f"{order.item} on {settings.port}"


async def show(order: OrderDep, item: Annotated[str, Depends(item_of)]) -> list[str]:
    return [order.item, item]


async def test_each_is_called_once(app: FastAPI, client: AsyncClient, queries: QueryBudget) -> None:
    order = (await client.post("/orders", json={"item": "tea"})).raise_for_status().json()
    app.add_api_route("/shown/{order_id}", show)
    get_settings.cache_clear()
    try:
        for _ in range(3):
            with queries.exactly(1):
                response = await client.get(f"/shown/{order['id']}")
            assert response.json() == ["tea", f"tea on {get_settings().port}"]
    finally:
        app.router.routes.pop()
    assert get_settings.cache_info().misses == 1
