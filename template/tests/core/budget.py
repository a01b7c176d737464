"""The budget of statements that a block may send to the database, and of rows that it may get."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from math import inf
from typing import Any

import asyncpg
import pytest
from asyncpg.prepared_stmt import PreparedStatement

from app.core.telemetry.activity import Activity, current


class Queries(Activity):
    """The SQL of each statement that a block and the tasks that it starts send."""

    def __init__(self) -> None:
        super().__init__()
        self.statements: list[str] = []
        self.rows = 0

    def sent(self, sql: str) -> None:
        self.statements.append(sql)


class QueryBudget:
    """`with queries.at_most(2): ...` fails with the statements if the block sends more.

    `queries.at_most(2, rows=21)` fails as well if they return more rows than that, all together. A
    result that is streamed has no rows here.
    """

    def exactly(self, number: int, *, rows: float = inf) -> AbstractContextManager[Queries]:
        return self._between(number, number, rows)

    def at_most(self, number: int, *, rows: float = inf) -> AbstractContextManager[Queries]:
        return self._between(0, number, rows)

    @contextmanager
    def _between(self, least: int, most: int, rows: float) -> Iterator[Queries]:
        queries = Queries()
        token = current.set(queries)
        try:
            with counted_rows(queries):
                yield queries
        finally:
            current.reset(token)
        if queries.rows > rows:
            lines = [f"the budget is {rows} rows, returned were {queries.rows}:"]
            pytest.fail("\n".join(lines + queries.statements), pytrace=False)
        sent = len(queries.statements)
        if not least <= sent <= most:
            lines = [f"the budget is {least} to {most} statements, sent were {sent}:"]
            pytest.fail("\n".join(lines + queries.statements), pytrace=False)


@contextmanager
def counted_rows(queries: Queries) -> Iterator[None]:
    """Add the rows that the driver returns, which has no hook for them."""

    def counting(fetch: Callable[..., Awaitable[list[Any]]]) -> Callable[..., Awaitable[list[Any]]]:
        async def counted(*arguments: Any, **options: Any) -> list[Any]:
            found = await fetch(*arguments, **options)
            queries.rows += len(found)
            return found

        return counted

    with pytest.MonkeyPatch.context() as patch:
        for owner in (asyncpg.Connection, PreparedStatement):
            patch.setattr(owner, "fetch", counting(owner.fetch))
        yield
