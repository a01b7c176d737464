"""The budget of statements that a block may send to the database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from app.core.telemetry.activity import Activity, current


class Queries(Activity):
    """The SQL of each statement that a `with` block sends, tasks that it starts included.

    A nested block adds its statements to the outer block as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def __enter__(self) -> "Queries":
        self._token = current.set(self)
        return self

    def __exit__(self, *_: object) -> None:
        current.reset(self._token)

    def sent(self, sql: str) -> None:
        self.statements.append(sql)


class QueryBudget:
    """`with queries.at_most(2): ...` fails with the statements if the block sends more."""

    def exactly(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(number, number, f"{number}")

    def at_most(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(0, number, f"at most {number}")

    @contextmanager
    def _between(self, least: int, most: int, budget: str) -> Iterator[Queries]:
        with Queries() as queries:
            yield queries
        sent = len(queries.statements)
        if not least <= sent <= most:
            shown = "\n".join(f"{n}. {sql}" for n, sql in enumerate(queries.statements, 1))
            message = f"the budget is {budget} statements, sent were {sent}:\n{shown}"
            pytest.fail(message, pytrace=False)
