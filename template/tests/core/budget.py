"""The budget of statements that a block may send to the database."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from app.core.telemetry.activity import Activity, current


class Queries(Activity):
    """The SQL of each statement that a block and the tasks that it starts send."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []

    def sent(self, sql: str) -> None:
        self.statements.append(sql)


class QueryBudget:
    """`with queries.at_most(2): ...` fails with the statements if the block sends more."""

    def exactly(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(number, number)

    def at_most(self, number: int) -> AbstractContextManager[Queries]:
        return self._between(0, number)

    @contextmanager
    def _between(self, least: int, most: int) -> Iterator[Queries]:
        queries = Queries()
        token = current.set(queries)
        try:
            yield queries
        finally:
            current.reset(token)
        sent = len(queries.statements)
        if not least <= sent <= most:
            lines = [f"the budget is {least} to {most} statements, sent were {sent}:"]
            pytest.fail("\n".join(lines + queries.statements), pytrace=False)
