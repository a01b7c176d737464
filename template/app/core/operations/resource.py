"""A resource of the team: each process opens it at its start, and closes it at its end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from inspect import isasyncgenfunction
from typing import Any, Generic, TypeVar

T = TypeVar("T")

# A resource that hangs must neither hold up the start unseen, nor keep the others open.
OPEN_TIMEOUT_S = 20.0
CLOSE_TIMEOUT_S = 2.0


class Resource(Generic[T]):
    """A value that each process opens with the settings, such as a client of another server.

        @Resource
        async def search(settings: Settings) -> AsyncIterator[SearchClient]:
            async with SearchClient(settings.search_url) as client:
                yield client

    `RESOURCES` in `app/resources.py` lists it; handlers and jobs call `search.get()`. The code
    after `yield` runs when requests and jobs have ended, also after an error of the process.
    """

    def __init__(self, function: Callable[[Any], AsyncIterator[T]]) -> None:
        self.name = f"{function.__module__}.{function.__qualname__}"
        if not isasyncgenfunction(function):
            raise TypeError(f"{self.name} is no resource: expected `async def` with one `yield`.")
        self._manager = asynccontextmanager(function)
        # The last one is in use; tests add one.
        self._values: list[T] = []

    def get(self) -> T:
        """Return the value of this process.

        Raises:
            RuntimeError: when it is not open.
        """
        if not self._values:
            raise RuntimeError(f"{self.name} is not open. List it in RESOURCES of app/resources.py")
        return self._values[-1]

    @contextmanager
    def replaced(self, value: T) -> Iterator[None]:
        """Use another value for the block, in a test."""
        self._values.append(value)
        try:
            yield
        finally:
            self._values.pop()

    @asynccontextmanager
    async def opened(self, settings: Any) -> AsyncIterator[None]:
        """Keep the resource open for the block; its errors have a note with its name."""
        manager = self._manager(settings)
        async with self._step("open", OPEN_TIMEOUT_S):
            value = await manager.__aenter__()
        try:
            with self.replaced(value):
                yield
        finally:
            async with self._step("close", CLOSE_TIMEOUT_S):
                # The code after `yield` runs without the error of the block.
                await manager.__aexit__(None, None, None)

    @asynccontextmanager
    async def _step(self, step: str, limit_s: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s):
                yield
        except Exception as error:
            error.add_note(f"{self.name} failed to {step}, or did not within {limit_s:g} s.")
            raise
