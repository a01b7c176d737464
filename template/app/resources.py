"""The resources that each process of this service opens: list your own here, in order.

The web process, job workers and tests open them after the resources of `app.core`, and close them
in reverse, when requests and jobs have ended.
"""

from typing import Any

from app.core.operations.resource import Resource

RESOURCES: list[Resource[Any]] = []
