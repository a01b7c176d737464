"""The statements that a request sends: with a count, a query for each row of a list cannot hide."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class Queries:
    """The statements of a block of code, and of the tasks that it starts, as SQL."""

    def __init__(self, outer: "Queries | None") -> None:
        self.statements: list[str] = []
        self._outer = outer

    def add(self, sql: str) -> None:
        self.statements.append(sql)
        if self._outer is not None:
            self._outer.add(sql)


_current: ContextVar[Queries | None] = ContextVar("queries", default=None)


@contextmanager
def counted() -> Iterator[Queries]:
    """Collect the statements of the block; an outer block collects them as well."""
    queries = Queries(_current.get())
    token = _current.set(queries)
    try:
        yield queries
    finally:
        _current.reset(token)


def record(sql: str) -> None:
    """Add a statement that is about to be sent."""
    queries = _current.get()
    if queries is not None:
        queries.add(sql)
