"""Tags that the team's code invalidates, and that no cached response has."""

import gc
import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, FunctionType
from unittest.mock import patch

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from app.core.cache.cached import cached
from app.core.cache.policy import policy_of
from app.core.cache.tags import tag
from tests.core import leftovers

MODULE = sys.modules[cached.__module__]
# Ends all entries.
EVERY = "*"


@contextmanager
def checked(app: FastAPI) -> Iterator[None]:
    """Fail a test whose `invalidate_after_commit` names a tag of no route and `@cached` function.

    Such a tag is misspelt here or there, and its invalidation has no effect.
    """
    # A value has no colon.
    escaped = map(re.escape, _templates(app))
    is_known = re.compile("|".join(re.sub(r"\\{.*?\\}", "[^:]*", each) for each in escaped))

    def checked_tag(template: str, **values: object) -> str:
        name = tag(template, **values)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_filename == MODULE.__file__:
            frame = frame.f_back
        place = frame.f_code.co_filename if frame else ""
        is_ours = place.startswith(leftovers.APP) and not place.startswith(leftovers.EXEMPT)
        if is_ours and name != EVERY and not is_known.fullmatch(name):
            place = place.removeprefix(leftovers.APP)
            reason = f"no route and no @cached function has the tag {template!r}"
            pytest.fail(f"app/{place} invalidates nothing: {reason}", pytrace=False)
        return name

    with patch.object(MODULE, "tag", checked_tag):
        yield


def _templates(app: FastAPI) -> Iterator[str]:
    for route in iter_route_contexts(app.router.routes):
        if policy := policy_of(route.endpoint):
            yield from policy.tags
    for each in gc.get_objects():
        # The functions that `cached` has made; they have the modules of those that they wrap.
        if isinstance(each, FunctionType) and each.__code__.co_filename == MODULE.__file__:
            yield from inspect.getclosurevars(each).nonlocals.get("templates", ())
