"""The resources that each process of this service opens: list your own here, in order.

The web process, job workers and tests open them after the resources of `app.core`, and close them
in reverse, when requests and jobs have ended. A domain declares one, in `app/orders/search.py` for
example:

    @Resource
    async def search(settings: Settings) -> AsyncIterator[SearchClient]:
        async with SearchClient(settings.search_url) as client:
            yield client
"""

from typing import Any

from app.core.operations.resource import Resource

RESOURCES: list[Resource[Any]] = []
