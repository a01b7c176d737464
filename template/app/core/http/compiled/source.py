"""Source text of one function, and the objects that its names stand for."""

import linecache
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any


class Source:
    """Lines are added at the present depth; `block` and `enter` make it deeper."""

    def __init__(self, depth: int) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {}
        self.depth = depth
        self._numbers = count(1)

    def add(self, *lines: str) -> None:
        self.lines += ["    " * self.depth + line for line in lines]

    def enter(self, head: str) -> None:
        """Put all lines that follow under `head`, for example a `with` statement."""
        self.add(head)
        self.depth += 1

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """Put the lines of the block under `head`."""
        self.enter(head)
        yield
        self.depth -= 1

    def variable(self, name: str) -> str:
        """Return a new name."""
        return f"{name}_{next(self._numbers)}"

    def bind(self, name: str, value: Any) -> str:
        """Return a new name for an object."""
        bound = self.variable(name)
        self.names[bound] = value
        return bound

    def function(self, head: str, filename: str) -> Any:
        """Return the function, whose lines tracebacks show."""
        text = "\n".join([head, *self.lines, ""])
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
        # The text has no part of a request: names of parameters are literals made by repr().
        exec(compile(text, filename, "exec"), self.names)  # noqa: S102
        return self.names[head.partition("(")[0].split()[-1]]
