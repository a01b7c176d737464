"""The statements that a request sends: with a count, a query for each row of a list cannot hide."""

from contextvars import ContextVar


class Queries:
    """The statements of a `with` block, and of the tasks that it starts, as SQL.

    An outer block collects them as well.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []

    def __enter__(self) -> "Queries":
        self._outer = _current.get()
        self._token = _current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)

    def add(self, sql: str) -> None:
        self.statements.append(sql)
        if self._outer is not None:
            self._outer.add(sql)


_current: ContextVar[Queries | None] = ContextVar("queries", default=None)


def record(sql: str) -> None:
    """Add a statement that is about to be sent."""
    queries = _current.get()
    if queries is not None:
        queries.add(sql)
