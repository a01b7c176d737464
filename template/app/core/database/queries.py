"""The statements that a request sends, collected so that tests and metrics can count them."""

from contextvars import ContextVar


class Queries:
    """The SQL of each statement that a `with` block sends, tasks that it starts included.

    A nested block adds its statements to the outer block as well.
    """

    def __init__(self) -> None:
        self.statements: list[str] = []

    def __enter__(self) -> "Queries":
        self._outer = current_queries.get()
        self._token = current_queries.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current_queries.reset(self._token)

    def add(self, sql: str) -> None:
        self.statements.append(sql)
        if self._outer is not None:
            self._outer.add(sql)


current_queries: ContextVar[Queries | None] = ContextVar("queries", default=None)


def collect_statement(sql: str) -> None:
    """Add a statement that is about to be sent to the current `Queries`, if there is one."""
    queries = current_queries.get()
    if queries is not None:
        queries.add(sql)
