"""The dependencies of the README are called once: for the process, or for the request."""

import re
from typing import Annotated

from fastapi import Depends, FastAPI
from httpx2 import AsyncClient

from app.callers import CallerDep, SettingsDep
from app.core.database import WriteSession
from app.orders.models import Group
from app.settings import get_settings
from tests.core.budget import QueryBudget
from tests.core.serving import ROOT


def test_the_readme_shows_this_code() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)

    assert (ROOT / "app" / "callers.py").read_text() in blocks


async def name_of(caller: CallerDep, settings: SettingsDep) -> str:
    return f"{caller.name} on {settings.port}"


async def call(caller: CallerDep, name: Annotated[str, Depends(name_of)]) -> list[str]:
    return [caller.name, name]


async def test_each_is_called_once(app: FastAPI, client: AsyncClient, queries: QueryBudget) -> None:
    async with WriteSession() as session:
        session.add(Group(name="tea"))
    app.add_api_route("/caller", call)
    get_settings.cache_clear()
    try:
        for _ in range(3):
            with queries.exactly(1):
                response = await client.get("/caller", headers={"X-Group": "tea"})
            assert response.json() == ["tea", f"tea on {get_settings().port}"]
    finally:
        app.router.routes.pop()
    assert get_settings.cache_info().misses == 1
